//! `nvmeh bind` and `nvmeh unbind`.

use std::io::{BufRead, IsTerminal};

use nvme_host_examples::pci::{DRIVERS, Function, Tree};

use crate::Failure;
use crate::status::{address, show};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Controllers, such as 0000:01:00.0, or vfio://0000:01:00.0, which chooses the driver, too
    #[arg(required = true, value_name = "ADDRESS|URL")]
    functions: Vec<String>,

    /// The driver that hands them to programs; vfio-pci unless a URL says otherwise
    #[arg(long, value_parser = DRIVERS.map(|d| d.0))]
    driver: Option<String>,

    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
pub struct UnbindArguments {
    /// Controllers, such as 0000:01:00.0 or vfio://0000:01:00.0
    #[arg(required = true, value_name = "ADDRESS|URL")]
    functions: Vec<String>,

    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Do it without asking
    #[arg(long, short)]
    yes: bool,

    /// Print a JSON object with the state afterwards
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let tree = Tree::system();
    let mut orders = Vec::new();
    // All are looked at before the first is touched.
    for text in &arguments.functions {
        let (address, scheme) = address(text)?;
        let function = tree.function(&address)?;
        let driver = driver(text, scheme, arguments.driver.as_deref())?;
        if function.driver.as_deref() != Some(driver) {
            tree.check(&function, Some(driver))?;
        }
        orders.push((function, driver));
    }
    let mut plan = Vec::new();
    for (function, driver) in &orders {
        let Function { address, .. } = function;
        match function.driver.as_deref() {
            Some(now) if now == *driver => plan.push(format!("{address}: {driver} has it already")),
            now => {
                let now = now.unwrap_or("no driver");
                plan.push(format!("{address}: from {now} to {driver}"));
            }
        }
        for disk in &function.disks {
            plan.push(format!("    {} will be gone", disk.nodes.join(" ")));
        }
        let others = function.group.iter().flat_map(|g| &g.others);
        for other in others.filter(|o| *driver == "vfio-pci" && o.is_in_the_way()) {
            let has = other.driver.as_deref().unwrap_or_default();
            plan.push(format!(
                "    {} is in the same IOMMU group and with {has}: vfio:// will be refused",
                other.address
            ));
        }
    }
    confirm(&plan, arguments.common.yes)?;
    for (function, driver) in &orders {
        tree.bind(&function.address, driver)?;
    }
    tell(&tree, orders.iter().map(|(function, _)| function), arguments.common.json)
}

pub fn unbind(arguments: &UnbindArguments) -> Result<(), Failure> {
    let tree = Tree::system();
    let mut functions = Vec::new();
    for text in &arguments.functions {
        let function = tree.function(&address(text)?.0)?;
        let former = function.noted.clone().flatten();
        tree.check(&function, former.as_deref())?;
        functions.push(function);
    }
    let mut plan = Vec::new();
    for function in &functions {
        let now = function.driver.as_deref().unwrap_or("no driver");
        let to = match &function.noted {
            Some(Some(driver)) => driver,
            Some(None) => "no driver",
            None => "what the kernel chooses",
        };
        plan.push(format!("{}: from {now} to {to}", function.address));
    }
    confirm(&plan, arguments.common.yes)?;
    for function in &functions {
        tree.restore(&function.address)?;
    }
    tell(&tree, functions.iter(), arguments.common.json)
}

/// The driver that is meant.
fn driver<'a>(
    text: &str,
    scheme: Option<&str>,
    option: Option<&'a str>,
) -> Result<&'a str, Failure> {
    let by_url = scheme.and_then(|s| DRIVERS.iter().find(|d| d.1 == s)).map(|d| d.0);
    match (by_url, option) {
        (Some(url), Some(option)) if url != option => {
            Err(Failure::Usage(format!("{text} means {url}, and --driver {option}")))
        }
        (url, option) => Ok(option.or(url).unwrap_or(DRIVERS[0].0)),
    }
}

fn confirm(plan: &[String], yes: bool) -> Result<(), Failure> {
    plan.iter().for_each(|line| eprintln!("{line}"));
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        let why = "nobody is there to ask; say --yes if that is meant".into();
        return Err(Failure::Usage(why));
    }
    eprint!("Go on? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::Failed("nothing was done".into())),
    }
}

/// Shows what has become of the functions.
fn tell<'a>(
    tree: &Tree,
    functions: impl Iterator<Item = &'a Function>,
    json: bool,
) -> Result<(), Failure> {
    let now: Result<Vec<_>, _> = functions.map(|f| tree.function(&f.address)).collect();
    show(&now?, json);
    Ok(())
}
