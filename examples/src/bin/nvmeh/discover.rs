//! `nvmeh discover`.

use std::time::Duration;

use nvme_mpath::DiscoveredSubsystem;
use serde_json::json;

use crate::{Failure, print_json, seconds};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The discovery controller, such as tcp://192.0.2.7 (port 8009) or tcp://192.0.2.7:4420
    url: String,

    /// Longest wait for the controller
    #[arg(long, value_name = "SECS", default_value = "10", value_parser = seconds)]
    timeout: Duration,

    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let host = nvme_host_examples::host::new()?;
    let found = host.discover(&arguments.url, arguments.timeout)?;
    if arguments.json {
        let entries: Vec<_> = found.iter().map(to_json).collect();
        print_json(&json!({ "url": arguments.url, "entries": entries }));
    } else if found.is_empty() {
        println!("{}: nothing", arguments.url);
    } else {
        println!("{:<10} {:<9} {:<24} SUBSYSTEM", "TYPE", "TRANSPORT", "ADDRESS");
        for entry in &found {
            let address = format!("{}:{}", entry.address, entry.service);
            let (kind, transport) = (kind(entry), transport(entry));
            println!("{kind:<10} {transport:<9} {address:<24} {}", entry.subnqn);
        }
    }
    host.shutdown()?;
    Ok(())
}

fn to_json(entry: &DiscoveredSubsystem) -> serde_json::Value {
    json!({
        "type": kind(entry),
        "transport": transport(entry),
        "address": entry.address,
        "service": entry.service,
        "subnqn": entry.subnqn.as_str(),
        "port_id": entry.port_id,
        "controller_id": entry.controller_id,
        "url": entry.url(),
    })
}

/// `NVMe 2.1 figure 294`, SUBTYPE.
fn kind(entry: &DiscoveredSubsystem) -> String {
    match entry.subsystem_type {
        1 => "referral".into(),
        2 => "nvm".into(),
        3 => "discovery".into(),
        other => format!("type {other}"),
    }
}

/// `NVMe 2.1 figure 294`, TRTYPE.
fn transport(entry: &DiscoveredSubsystem) -> String {
    match entry.transport {
        1 => "rdma".into(),
        2 => "fc".into(),
        3 => "tcp".into(),
        254 => "loop".into(),
        other => format!("type {other}"),
    }
}
