//! Runs inside the guest, on one function, named by its URL.
//!
//! `nvme-pci-guest check URL SERIAL` checks the backend and prints what it can do.
//! `nvme-pci-guest io URL NQN NSID QUEUES` has the driver do verified I/O, and prints what was counted.
//! `nvme-pci-guest identity URL NQN NSID` prints what the device is, its quirks, and who the namespace is.
//! `nvme-pci-guest places URL NQN NSID` does so with data at every place of a page.
//! `nvme-pci-guest metadata URL NQN NSID after|beside` does so on blocks with metadata.
//! `nvme-pci-guest stall URL NQN NSID GO` sits out a device that stalls while the file GO is there.
//! `nvme-pci-guest attach URL NQN KNOWN NSID` attaches and detaches namespace NSID.
//! `nvme-pci-guest failover NQN NSID URL URL STOP` runs a load whose paths come and go.
//! `nvme-pci-guest hold URL` opens the function, says `open`, waits until it is taken away, says
//! `asked`, and gives it up. With an error the exit status is 1 and the text says what did not hold.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nvme_core::spec::registers::offset;
use nvme_pci::{Backend, Location, Open, Uio, Vfio};
use nvme_pci_guest::{
    Admin, Result, attach, check, every_place, failover, identity, stall, verified_io,
    with_metadata,
};

/// The longest that a removal takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["check", url, serial] => open(url)
            .and_then(|backend| check(backend, serial))
            .map(|abilities| println!("{abilities:?}")),
        ["hold", url] => open(url).and_then(|backend| hold(&backend)),
        ["io", url, nqn, nsid, queues] => match (nsid.parse(), queues.parse()) {
            (Ok(nsid), Ok(queues)) => {
                println!("{:?}", verified_io(url, nqn, nsid, queues));
                Ok(())
            }
            _ => Err("NSID and QUEUES are numbers".into()),
        },
        ["identity", url, nqn, nsid] => number(nsid).map(|nsid| identity(url, nqn, nsid)),
        ["places", url, nqn, nsid] => {
            number(nsid).map(|nsid| println!("{:?}", every_place(url, nqn, nsid)))
        }
        ["metadata", url, nqn, nsid, place @ ("after" | "beside")] => {
            number(nsid).map(|nsid| with_metadata(url, nqn, nsid, *place == "beside"))
        }
        ["stall", url, nqn, nsid, go] => {
            number(nsid).map(|nsid| stall(url, nqn, nsid, Path::new(go)))
        }
        ["attach", url, nqn, known, nsid] => {
            number(known).and_then(|known| number(nsid).map(|nsid| attach(url, nqn, known, nsid)))
        }
        ["failover", nqn, nsid, first, second, stop] => {
            number(nsid).map(|nsid| failover(nqn, nsid, [first, second], Path::new(stop)))
        }
        _ => {
            eprintln!("nvme-pci-guest: see the first lines of its source");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            println!("{failure:?}");
            ExitCode::FAILURE
        }
    }
}

fn number(text: &str) -> Result<u32> {
    Ok(text.parse().map_err(|_| format!("{text} is no number"))?)
}

fn open(url: &str) -> Result<Arc<dyn Backend>> {
    let ways: [&dyn Open; 2] = [&Vfio::new(), &Uio::new()];
    for way in ways {
        let Ok(location) = Location::parse(way.scheme(), url) else { continue };
        way.check(&location)?;
        return Ok(way.open(&location)?);
    }
    Err(format!("no backend for {url}").into())
}

fn hold(backend: &Arc<dyn Backend>) -> Result<()> {
    backend.set_bus_master(true)?;
    // Memory is mapped, and the controller is enabled, when it is taken away.
    let admin = Admin::new(backend, None)?;
    println!("open");
    let end = Instant::now() + LIMIT;
    while !backend.removal_requested() {
        if Instant::now() > end {
            return Err("nobody asked for the function".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("asked");
    backend.close();
    if backend.bar0().read32(offset::VS) != u32::MAX || backend.alloc_dma(4096, 4096).is_ok() {
        return Err("a function that was given up can be used".into());
    }
    // The memory goes after the function: that must not wait for anything.
    drop(admin);
    Ok(())
}
