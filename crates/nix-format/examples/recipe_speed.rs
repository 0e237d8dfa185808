//! How fast published files are made again, beside the programs that wrote them: `recipe_speed FILE [ROUNDS]`.
//!
//! Always holds: each round makes the file of the same bytes by our encoder and by the program, in turns; a file that
//! is not the same is an error and no figure; seconds are those of a processor, as Linux counts them in hundredths, so
//! that a busy machine changes them little.

#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a measurement reads files")]

use std::error::Error;
use std::io::{self, Read, Write};
use std::process::{Command, Stdio};

use firn_nix_format::{Recipe, RecipeEncoder, Sha256};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("name a file")?;
    let rounds: u32 = arguments.next().map_or(Ok(3), |rounds| rounds.parse())?;
    let bytes = std::fs::read(&path)?;
    println!("{} bytes of {path}; MB for each second of a processor, ours and the program's", bytes.len());
    for recipe in Recipe::ALL {
        let program: &[&str] = match recipe {
            Recipe::Xz6 => &["xz", "-6", "-T1", "-C", "crc64", "-c"],
            Recipe::Bzip2_9 => &["bzip2", "-9", "-c"],
        };
        for _ in 0..rounds {
            let begun = Seconds::now()?;
            let ours = Sha256::of(&by_encoder(recipe, &bytes)?);
            let between = Seconds::now()?;
            let theirs = Sha256::of(&by_program(program, &bytes)?);
            let (own, other) = (between.own - begun.own, Seconds::now()?.children - between.children);
            if ours != theirs {
                return Err(format!("{recipe}: the files differ").into());
            }
            let speed = |seconds: f64| bytes.len() as f64 / 1e6 / seconds;
            println!("{recipe}: {:.2} {:.2} ({:.2} times)", speed(own), speed(other), other / own);
        }
    }
    Ok(())
}

/// What this process and the programs that it waited for have used of a processor.
struct Seconds {
    own: f64,
    children: f64,
}

impl Seconds {
    fn now() -> Result<Self, Box<dyn Error>> {
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        // Behind the name, which may hold anything: user and system of its own, then of its children.
        let (_, fields) = stat.rsplit_once(')').ok_or("no name in /proc/self/stat")?;
        let ticks = fields.split_whitespace().skip(11).take(4).map(str::parse);
        let ticks: Vec<u32> = ticks.collect::<Result<_, _>>()?;
        let [user, system, children_user, children_system] = ticks[..] else {
            return Err("too few fields in /proc/self/stat".into());
        };
        let seconds = |user: u32, system: u32| f64::from(user + system) / 100.0;
        Ok(Self { own: seconds(user, system), children: seconds(children_user, children_system) })
    }
}

fn by_encoder(recipe: Recipe, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = RecipeEncoder::new(recipe, Vec::new())?;
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn by_program(program: &[&str], bytes: &[u8]) -> io::Result<Vec<u8>> {
    let [name, arguments @ ..] = program else { return Err(io::ErrorKind::InvalidInput.into()) };
    let mut child =
        Command::new(name).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (Some(mut stdin), Some(mut stdout)) = (stdin, stdout) else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    let mut file = Vec::new();
    std::thread::scope(|scope| {
        let feeding = scope.spawn(move || stdin.write_all(bytes));
        stdout.read_to_end(&mut file)?;
        feeding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let status = child.wait()?;
    if status.success() { Ok(file) } else { Err(io::Error::other(format!("{name}: {status}"))) }
}
