//! What part of what bare sockets do is left with the protocol: short runs of both, in turn, because
//! loopback is fast for one connection and slow for the next, whatever the program does.
//!
//! `floor_ratio [SECONDS [RUNS [SHAPE…]]]`, where a shape is `read|write:BYTES:DEPTH[:QUERY]` and the
//! query, such as `hdgst=1&ddgst=1`, is the library's URL's. Prints a table. The second column is of sockets, too,
//! but with memory of its own for each request under way, as the library's requests have.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use nvme_host_benches::rates::{rate, summary};
use nvme_host_benches::{Rig, target};
use nvme_host_floor::{Floor, Shape};
use nvme_mpath::IoOp;

/// What is measured unless told otherwise.
const SHAPES: &[&str] = &[
    "read:4096:1",
    "read:4096:32",
    "read:4096:128",
    "write:4096:1",
    "write:4096:32",
    "write:4096:128",
    "read:131072:1",
    "read:131072:32",
    "read:131072:128",
    "write:131072:1",
    "write:131072:32",
    "write:131072:128",
    "read:131072:32:hdgst=1&ddgst=1",
    "write:131072:32:hdgst=1&ddgst=1",
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let seconds = args.first().map_or(Some(0.5), |text| text.parse().ok());
    let runs = args.get(1).map_or(Some(7), |text| text.parse().ok());
    let (Some(seconds), Some(runs)) = (seconds, runs) else { return usage() };
    let time = Duration::from_secs_f64(seconds);
    let shapes: Vec<&str> = match args.get(2..) {
        Some(shapes) if !shapes.is_empty() => shapes.iter().map(String::as_str).collect(),
        _ => SHAPES.to_vec(),
    };
    println!(
        "| shape | sockets: least, median, most | apart | library | library to sockets: medians, most | to apart |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    for text in shapes {
        let Some((shape, query)) = shape(text) else { return usage() };
        let (mut floor, mut apart, mut library) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..runs {
            floor.push(of_sockets(shape, time));
            apart.push(of_sockets(Shape { apart: true, ..shape }, time));
            library.push(of_library(shape, query, time));
        }
        let ((fl, fm, fx), (al, am, ax)) = (summary(floor), summary(apart));
        let (ll, lm, lx) = summary(library);
        println!(
            "| {text} | {fl:.0}, {fm:.0}, {fx:.0} | {al:.0}, {am:.0}, {ax:.0} | {ll:.0}, {lm:.0}, {lx:.0} \
             | {:.2}, {:.2} | {:.2}, {:.2} |",
            lm / fm,
            lx / fx,
            lm / am,
            lx / ax
        );
    }
    ExitCode::SUCCESS
}

fn shape(text: &str) -> Option<(Shape, &str)> {
    let mut words = text.splitn(4, ':');
    let write = match words.next()? {
        "read" => false,
        "write" => true,
        _ => return None,
    };
    let bytes = words.next()?.parse().ok()?;
    let depth = words.next()?.parse().ok()?;
    Some((Shape { write, bytes, depth, apart: false }, words.next().unwrap_or_default()))
}

/// Requests a second of the library, on a target and a connection of its own.
fn of_library(shape: Shape, query: &str, time: Duration) -> f64 {
    let target = target(1);
    let query = if query.is_empty() { String::new() } else { format!("?{query}") };
    let mut rig = Rig::on(&target, 1, &query);
    let op = if shape.write { IoOp::Write } else { IoOp::Read };
    rate(shape.bytes, shape.depth, time, |count| rig.run(op, shape.bytes, shape.depth, count))
}

/// Requests a second of bare sockets, new ones.
fn of_sockets(shape: Shape, time: Duration) -> f64 {
    let mut floor = Floor::new(shape).expect("sockets on loopback");
    rate(shape.bytes, shape.depth, time, |count| {
        floor.run(count, |_| {}).expect("sockets on loopback");
    })
}

fn usage() -> ExitCode {
    eprintln!("floor_ratio [SECONDS [RUNS [read|write:BYTES:DEPTH[:QUERY]...]]]");
    ExitCode::from(2)
}
