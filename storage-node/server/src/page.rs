//! The owner's page: how the node is, in a sentence, and its last week in graphs.
//!
//! Always holds: it changes nothing; it has no script and nothing from elsewhere, which its policy forbids; every text that is
//! not from here is escaped; an hour in which the node did not run is a gap, not a zero.
//! Leaves to others: what is true (`report`, `week`).

use std::fmt::Write;

use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use firn_base::{ByteCount, Timestamp};
use firn_storage_node_logic::HourCounts;

use crate::node::NodeHandle;
use crate::report::NodeReport;

const STYLE: &str = include_str!("page.css");

// A style sheet of this page alone, by the word of its author: there is no text of strangers in it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

// As many units of the picture as an hour is wide, and as a graph is high.
const HOUR_WIDTH: usize = 4;
const HEIGHT: u64 = 100;

/// The page of a node; none while its disk is gone.
pub(crate) fn page(node: Option<&NodeHandle>) -> Response {
    let (status, body) = match node {
        Some(node) => (StatusCode::OK, body_of(&node.report(), &node.last_week())),
        None => (
            StatusCode::SERVICE_UNAVAILABLE,
            state(
                "The disk with the data directory is gone: the node is offline until it is mounted again.",
                false,
            ),
        ),
    };
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n<title>Firn storage node</title>\n<style>{STYLE}</style>\n<main>\n<h1>Firn storage node</h1>\n{body}</main>\n</html>\n"
    );
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, Html(html)).into_response()
}

fn body_of(report: &NodeReport, week: &[Option<HourCounts>]) -> String {
    let mut body = state(&report.sentence(), report.attention.is_empty());
    for attention in &report.attention {
        let until = attention.consequence_millis.map(|millis| {
            format!(" The archive does something about it at {}.", Timestamp::from_millis(millis))
        });
        put(
            &mut body,
            format_args!("<p>{}{}</p>\n", escaped(&attention.sentence), until.unwrap_or_default()),
        );
    }
    let bytes = |bytes: u64| ByteCount(bytes).to_string();
    graph(&mut body, "Uploaded in an hour", week, |hour| hour.uploaded_bytes, bytes);
    graph(&mut body, "Downloaded in an hour", week, |hour| hour.downloaded_bytes, bytes);
    graph(&mut body, "Reads helped in an hour", week, |hour| hour.reads_helped, |reads| reads.to_string());
    graph(&mut body, "Held", week, |hour| hour.used_bytes, bytes);
    let state = report.state_in_words();
    let rows = [
        ("Node", report.node.clone()),
        ("Archive", report.archive.clone()),
        ("Address", report.address.clone()),
        ("State", format!("{state}{}", if report.leaving { ", leaving" } else { "" })),
        ("Damaged", format!("{} shards since the start", report.damaged)),
        ("Read again", format!("{} shards since the start", report.scrubbed)),
    ];
    body.push_str("<h2>More</h2>\n<table>\n");
    for (name, value) in rows {
        put(&mut body, format_args!("<tr><th>{name}<td>{}\n", escaped(&value)));
    }
    for link in &report.coordinators {
        let heard = match (link.connected, link.heard_seconds_ago) {
            (true, Some(seconds)) => format!("heard {seconds} s ago"),
            (true, None) => "connected, not heard yet".to_owned(),
            (false, _) => link.trouble.clone().unwrap_or_else(|| "not connected yet".to_owned()),
        };
        put(
            &mut body,
            format_args!("<tr><th>Coordinator<td>{}: {}\n", escaped(&link.address), escaped(&heard)),
        );
    }
    body.push_str("</table>\n");
    body
}

fn state(sentence: &str, is_well: bool) -> String {
    let class = if is_well { "state" } else { "state ailing" };
    format!("<p class=\"{class}\">{}</p>\n", escaped(sentence))
}

/// A bar for each hour of the week, the tallest as high as the graph.
fn graph(
    body: &mut String,
    title: &str,
    week: &[Option<HourCounts>],
    of: impl Fn(&HourCounts) -> u64,
    shown: impl Fn(u64) -> String,
) {
    let most = week.iter().flatten().map(&of).max().unwrap_or_default();
    let width = week.len() * HOUR_WIDTH;
    put(
        body,
        format_args!(
            "<h2>{title}</h2>\n<svg viewBox=\"0 0 {width} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{title}, the last week\">\n"
        ),
    );
    for (place, hour) in week.iter().enumerate() {
        let Some(value) = hour.as_ref().map(&of).filter(|value| *value > 0) else { continue };
        // Whatever was there is to be seen.
        let height = scaled(value, most).max(1);
        let (left, top) = (place * HOUR_WIDTH, HEIGHT - height);
        put(
            body,
            format_args!("<rect x=\"{left}\" y=\"{top}\" width=\"{HOUR_WIDTH}\" height=\"{height}\"/>\n"),
        );
    }
    put(
        body,
        format_args!(
            "</svg>\n<p class=\"ends\"><span>{} hours ago</span><span>at most {}</span><span>now</span></p>\n",
            week.len().saturating_sub(1),
            shown(most)
        ),
    );
}

/// Which part of the height `value` is, of which `most` is all.
fn scaled(value: u64, most: u64) -> u64 {
    let height = u128::from(value) * u128::from(HEIGHT) / u128::from(most.max(1));
    u64::try_from(height).unwrap_or(HEIGHT).min(HEIGHT)
}

fn put(target: &mut String, text: std::fmt::Arguments<'_>) {
    target.write_fmt(text).expect("a String takes every write");
}

/// `text` fit for HTML, in attributes too.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' | '<' | '>' | '"' | '\'' => put(&mut escaped, format_args!("&#{};", u32::from(character))),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_has_a_bar_for_each_hour_with_something_and_gaps_for_the_others() {
        let hour = |reads_helped| Some(HourCounts { reads_helped, ..HourCounts::default() });
        let mut body = String::new();
        let week = [hour(50), None, hour(0), hour(1_000), hour(1)];
        graph(&mut body, "Reads", &week, |hour| hour.reads_helped, |reads| reads.to_string());
        let bars: Vec<&str> = body.lines().filter(|line| line.starts_with("<rect")).collect();
        assert_eq!(
            bars,
            [
                "<rect x=\"0\" y=\"95\" width=\"4\" height=\"5\"/>",
                "<rect x=\"12\" y=\"0\" width=\"4\" height=\"100\"/>",
                "<rect x=\"16\" y=\"99\" width=\"4\" height=\"1\"/>",
            ]
        );
        assert!(body.contains("at most 1000") && body.contains("4 hours ago"), "{body}");
        assert_eq!(scaled(u64::MAX, u64::MAX), 100);
    }

    #[test]
    fn words_of_others_are_escaped_and_nothing_comes_from_elsewhere() {
        let report = NodeReport { address: "<script src='//x'>&\"".into(), ..NodeReport::default() };
        let body = body_of(&report, &[None; 168]);
        assert!(body.contains("&#60;script src=&#39;//x&#39;&#62;&#38;&#34;"), "{body}");
        for foreign in ["<script", "<img", "<link", "http:", "https:", "url("] {
            assert!(!body.contains(foreign) && !STYLE.contains(foreign), "{foreign}");
        }
    }
}
