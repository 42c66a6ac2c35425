//! `nvmeh status`.

use nvme_host_examples::pci::{Function, PciError, Tree};
use serde_json::{Value, json};

use crate::{Failure, print_json};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Controllers, such as 0000:01:00.0 or vfio://0000:01:00.0; all unless given
    #[arg(value_name = "ADDRESS|URL")]
    functions: Vec<String>,

    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let tree = Tree::system();
    let mut functions = Vec::new();
    for text in &arguments.functions {
        functions.push(tree.function(&address(text)?.0)?);
    }
    if arguments.functions.is_empty() {
        functions = tree.functions()?;
    }
    show(&functions, arguments.json);
    Ok(())
}

/// The address of a function, and the scheme if it was a URL.
pub fn address(text: &str) -> Result<(String, Option<&str>), Failure> {
    Tree::address(text).map_err(|error| match error {
        PciError::Address(why) => Failure::Usage(why),
        other => other.into(),
    })
}

/// Prints functions, for people or as JSON.
pub fn show(functions: &[Function], as_json: bool) {
    if as_json {
        let all: Vec<_> = functions.iter().map(to_json).collect();
        print_json(&json!({ "functions": all }));
    } else if functions.is_empty() {
        println!("no NVMe controllers on the PCI bus");
    }
    if !as_json {
        functions.iter().for_each(print);
    }
}

fn print(function: &Function) {
    let Function { address, vendor, device, .. } = function;
    let driver = function.driver.as_deref().unwrap_or("no driver");
    let group = function.group.as_ref().map_or("no IOMMU".into(), |g| format!("group {}", g.id));
    let url = function.url().map_or_else(String::new, |url| format!("  {url}"));
    println!("{address}  {vendor:04x}:{device:04x}  {driver:<15} {group:<9}{url}");
    for member in function.group.iter().flat_map(|g| &g.others) {
        let driver = member.driver.as_deref().unwrap_or("no driver");
        let way = if member.is_in_the_way() { ", in the way of vfio://" } else { "" };
        println!("    {} is in the same group: {driver}{way}", member.address);
    }
    for disk in &function.disks {
        let how = if disk.uses.is_empty() { ", not in use" } else { "" };
        println!("    {}{how}", disk.nodes.join(" "));
    }
    for line in function.uses() {
        println!("    {line}");
    }
    if let Some(former) = &function.noted {
        let former = former.as_deref().unwrap_or("no driver");
        println!("    `nvmeh unbind` gives it back to: {former}");
    }
}

fn to_json(function: &Function) -> Value {
    let group = function.group.as_ref().map(|group| {
        let member = |m: &nvme_host_examples::pci::Member| {
            json!({ "address": m.address, "driver": m.driver, "in_the_way": m.is_in_the_way() })
        };
        json!({ "id": group.id, "others": group.others.iter().map(member).collect::<Vec<_>>() })
    });
    let disks: Vec<_> = function
        .disks
        .iter()
        .map(|disk| {
            let uses: Vec<_> = disk.uses.iter().map(ToString::to_string).collect();
            json!({ "name": disk.name, "nodes": disk.nodes, "uses": uses })
        })
        .collect();
    let processes: Vec<_> = function
        .processes
        .iter()
        .map(|p| json!({ "pid": p.pid, "name": p.name, "file": p.file }))
        .collect();
    json!({
        "address": function.address,
        "vendor": format!("{:04x}", function.vendor),
        "device": format!("{:04x}", function.device),
        "driver": function.driver,
        "driver_override": function.driver_override,
        "url": function.url(),
        "iommu_group": group,
        "controllers": function.controllers,
        "disks": disks,
        "processes": processes,
        "in_use": !function.uses().is_empty(),
        "former_driver": function.noted.clone().flatten(),
        "bound_by_nvmeh": function.noted.is_some(),
    })
}
