//! `nvmeh list`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nvme_host_examples::size::human;
use nvme_host_examples::terminal::latency;
use nvme_mpath::{Controller, Head, HeadState, Host};
use serde_json::{Value, json};

use crate::{Failure, controller_options, print_json, seconds};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Controllers, such as tcp://192.0.2.7:4420/nqn.2026-01.org.example:sub; several paths to one
    /// subsystem are joined
    #[arg(required = true, value_name = "URL")]
    urls: Vec<String>,

    /// Longest wait for each controller
    #[arg(long, value_name = "SECS", default_value = "10", value_parser = seconds)]
    timeout: Duration,

    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let host = nvme_host_examples::host::new()?;
    let options = controller_options(arguments.timeout);
    let mut errors = Vec::new();
    let mut controllers = Vec::new();
    // All at once, so that several that are silent are waited for together.
    for url in &arguments.urls {
        match host.connect(url, options.clone()) {
            Ok(controller) => controllers.push((url, controller)),
            Err(error) => errors.push((url, error.to_string())),
        }
    }
    controllers.retain(|(url, controller)| match controller.wait_ready(arguments.timeout) {
        Ok(()) => true,
        Err(error) => {
            errors.push((url, error.to_string()));
            false
        }
    });
    let subsystems = group(&host, controllers.into_iter().map(|(_, c)| c));
    if arguments.json {
        let failed: Vec<_> =
            errors.iter().map(|(url, error)| json!({ "url": url, "error": error })).collect();
        let all: Vec<_> = subsystems.iter().map(|(nqn, s)| s.to_json(nqn)).collect();
        print_json(&json!({ "subsystems": all, "errors": failed }));
    } else {
        subsystems.iter().for_each(|(nqn, s)| s.print(nqn));
    }
    for (_, error) in &errors {
        eprintln!("nvmeh: {error}");
    }
    host.shutdown()?;
    if errors.is_empty() { Ok(()) } else { Err(Failure::Told) }
}

/// What belongs to one subsystem.
#[derive(Default)]
struct Subsystem {
    controllers: Vec<Controller>,
    heads: Vec<Arc<Head>>,
}

fn group(
    host: &Host,
    controllers: impl Iterator<Item = Controller>,
) -> BTreeMap<String, Subsystem> {
    let mut all: BTreeMap<String, Subsystem> = BTreeMap::new();
    for controller in controllers {
        let Some(info) = controller.info() else { continue };
        all.entry(info.subnqn.to_string()).or_default().controllers.push(controller);
    }
    for head in host.heads() {
        all.entry(head.subsystem_nqn().to_string()).or_default().heads.push(head);
    }
    for subsystem in all.values_mut() {
        subsystem.heads.sort_by_key(|h| h.nsid());
    }
    all
}

impl Subsystem {
    fn to_json(&self, nqn: &str) -> Value {
        let first = self.controllers.first().and_then(Controller::info);
        let controllers: Vec<_> = self.controllers.iter().map(controller_json).collect();
        let heads: Vec<_> = self.heads.iter().map(|h| head_json(h)).collect();
        json!({
            "nqn": nqn,
            "model": first.as_ref().map(|i| i.model.as_str()),
            "serial": first.as_ref().map(|i| i.serial.as_str()),
            "firmware": first.as_ref().map(|i| i.firmware.as_str()),
            "controllers": controllers,
            "heads": heads,
        })
    }

    fn print(&self, nqn: &str) {
        println!("{nqn}");
        if let Some(info) = self.controllers.first().and_then(Controller::info) {
            println!("  {}, serial {}, firmware {}", info.model, info.serial, info.firmware);
        }
        for controller in &self.controllers {
            let (address, state) = (controller.address(), controller.state());
            let info = controller.info();
            let cntlid = info.map_or_else(String::new, |i| {
                format!(
                    ", controller {}, {} I/O queues, NVMe {}",
                    i.cntlid,
                    i.io_queues,
                    version(i.version)
                )
            });
            println!("  {address}  {}{cntlid}", state_name(state));
            if let Some(info) = controller.info().filter(|info| !info.quirks.is_empty()) {
                let device = info.device.map_or_else(String::new, |ids| format!(" of {ids}"));
                println!("    quirks{device}: {}", info.quirks);
            }
        }
        for head in &self.heads {
            let g = head.geometry();
            let size = human(g.blocks.saturating_mul(g.block_size.into()));
            let (nsid, blocks, block_size) = (head.nsid(), g.blocks, g.block_size);
            println!(
                "  namespace {nsid}: {size}, {blocks} blocks of {block_size} B, {}",
                head.ids()
            );
            if g.read_only {
                println!("    read-only");
            }
            if let HeadState::RemovalPending { remaining, .. } = head.state() {
                let left = remaining.map_or("never".into(), |r| format!("in {}", latency(r)));
                println!("    removal pending: {left}");
            }
            for path in head.paths() {
                let usable = if path.usable { "" } else { ", not usable" };
                println!("    {}  {}{usable}", path.address, ana_name(path.ana));
            }
        }
    }
}

fn controller_json(controller: &Controller) -> Value {
    let info = controller.info();
    json!({
        "address": &**controller.address(),
        "state": state_name(controller.state()),
        "cntlid": info.as_ref().map(|i| i.cntlid),
        "version": info.as_ref().map(|i| version(i.version)),
        "io_queues": info.as_ref().map(|i| i.io_queues),
        "ana": info.as_ref().map(|i| i.ana),
        "device": info.as_ref().and_then(|i| i.device).map(|ids| ids.to_string()),
        "quirks": info.as_ref().map(|i| i.quirks.names().collect::<Vec<_>>()),
    })
}

fn head_json(head: &Head) -> Value {
    let (g, ids) = (head.geometry(), head.ids());
    let paths: Vec<_> = head
        .paths()
        .iter()
        .map(|p| {
            json!({
                "address": &*p.address,
                "nsid": p.nsid,
                "ana": ana_name(p.ana),
                "usable": p.usable,
            })
        })
        .collect();
    json!({
        "name": head.name(),
        "nsid": head.nsid(),
        "state": match head.state() {
            HeadState::Live => "live",
            HeadState::RemovalPending { .. } => "removal pending",
            HeadState::Removing(_) => "removing",
            HeadState::Gone(_) => "gone",
            _ => "unknown",
        },
        "block_size": g.block_size,
        "blocks": g.blocks,
        "bytes": g.blocks.saturating_mul(g.block_size.into()),
        "max_transfer": g.max_transfer,
        "read_only": g.read_only,
        "metadata_size": g.metadata_size,
        "uuid": ids.uuid.map(|id| id.to_string()),
        "nguid": ids.nguid.map(|id| id.to_string()),
        "eui64": ids.eui64.map(|id| id.to_string()),
        "paths": paths,
    })
}

fn version(vs: u32) -> String {
    format!("{}.{}.{}", vs >> 16, vs >> 8 & 0xff, vs & 0xff)
}

/// As Linux names them.
fn state_name(state: nvme_core::controller::State) -> String {
    format!("{state:?}").to_ascii_lowercase()
}

/// As Linux names them: `optimized`, `non-optimized`, `inaccessible`, ...
fn ana_name(state: nvme_core::ana::AnaState) -> String {
    use nvme_core::ana::AnaState;
    match state {
        AnaState::NonOptimized => "non-optimized".into(),
        AnaState::PersistentLoss => "persistent-loss".into(),
        other => format!("{other:?}").to_ascii_lowercase(),
    }
}
