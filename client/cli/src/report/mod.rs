//! What is printed about an archive: for people and as JSON.
//!
//! Always holds: the names of JSON fields never change (golden texts pin them); ids are hexadecimal texts,
//! counts of bytes are plain numbers, times are milliseconds since the Unix epoch; what only a leader knows is
//! null from anybody else.

mod bundle_report;
mod caps_report;
mod coordinator_alarm;
mod node_report;
mod publish_report;
mod status_report;
mod upload_estimate;

pub(crate) use bundle_report::{BundleDetails, BundleReport, bundle_table};
pub(crate) use node_report::{NodeReport, node_table};
pub(crate) use publish_report::PublishReport;
pub(crate) use status_report::{SchemeReport, StatusReport};
pub(crate) use upload_estimate::{Packing, UploadEstimate};

#[cfg(test)]
pub(crate) use status_report::tests::status as example_status;

/// `number` things, by their singular: "1 node", "3 nodes".
pub(crate) fn counted(number: u64, singular: &str) -> String {
    match number {
        1 => format!("1 {singular}"),
        _ => format!("{number} {singular}s"),
    }
}

/// How many bytes are stored for each byte of payload.
pub(crate) fn redundancy(stored: u64, payload: u64) -> Option<f64> {
    // Exact up to 9 PB, and shown with two digits.
    #[expect(clippy::cast_precision_loss, reason = "a ratio that is shown with two digits")]
    (payload > 0).then(|| (stored as f64 / payload as f64 * 100.0).round() / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redundancy_is_a_ratio_of_two_digits() {
        assert_eq!(redundancy(300, 100), Some(3.0));
        assert_eq!(redundancy(2, 3), Some(0.67));
        assert_eq!(redundancy(2, 0), None);
    }
}
