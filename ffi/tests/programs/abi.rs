//! What leaves the library: symbols, and the binary interface, compared with what was released.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bench::{finish, installed, repository, run, tmp};

fn bless() -> bool {
    std::env::var_os("BLESS").is_some()
}

#[test]
fn nothing_but_the_listed_symbols_is_exported() {
    let library = installed().plain.join("lib/libnvmehost.so");
    let text =
        run(Command::new("nm").args(["-D", "--defined-only", "--format=posix"]).arg(library));
    let mut symbols: Vec<_> =
        text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    symbols.sort_unstable();
    let new = symbols.join("\n") + "\n";
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("symbols.txt");
    if bless() {
        std::fs::write(&list, &new).expect("a list that can be written");
    }
    let old = std::fs::read_to_string(&list).unwrap_or_default();
    assert_eq!(old, new, "ffi/symbols.txt (BLESS=1 to write it)");
    assert!(symbols.iter().all(|s| s.starts_with("nvmeh_")), "{symbols:?}");
}

#[test]
fn the_shared_object_has_its_name() {
    let library = installed().plain.join("lib/libnvmehost.so");
    let text = run(Command::new("readelf").arg("-d").arg(library));
    assert!(text.contains("soname: [libnvmehost.so.0]"), "{text}");
}

/// A shared object that has the interface of the header, as C debug information: the header is
/// compared with the Rust sources by the test `header`, and compilers describe C best in C.
fn stub(name: &str, change: impl Fn(&str) -> String) -> PathBuf {
    let path = repository().join("include/nvmehost.h");
    let header = change(&std::fs::read_to_string(path).expect("the header"));
    let code: Vec<_> = header.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    let (_, functions) = code.split_once("extern \"C\" {").expect("the functions");
    let (_, functions) = functions.split_once("#endif").expect("the functions");
    let (functions, _) = functions.split_once("#ifdef __cplusplus").expect("their end");
    let mut source = format!("#include \"{name}.h\"\n");
    for function in functions.split(';').map(str::trim).filter(|f| !f.is_empty()) {
        source += &format!("{function} {{ __builtin_trap(); }}\n");
    }
    let at = |ending: &str| tmp().join(format!("{name}.{ending}"));
    std::fs::write(at("h"), header).expect("room");
    std::fs::write(at("c"), source).expect("room");
    let mut gcc = Command::new("gcc");
    gcc.args(["-g", "-shared", "-fPIC", "-Wno-unused-parameter"]);
    run(gcc.arg(at("c")).arg("-o").arg(at("so")));
    at("so")
}

/// Whether programs that were built with the baseline run with this.
fn is_compatible(library: &Path) -> (bool, String) {
    let baseline = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/baseline.abi");
    let mut abidiff = Command::new("abidiff");
    let output = finish(abidiff.arg("--no-added-syms").arg(baseline).arg(library));
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn the_binary_interface_is_that_of_the_baseline() {
    let library = stub("nvmehost-abi", str::to_owned);
    if bless() {
        let baseline = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/baseline.abi");
        let mut abidw = Command::new("abidw");
        abidw.args(["--no-corpus-path", "--no-comp-dir-path", "--short-locs", "--out-file"]);
        run(abidw.arg(baseline).arg(&library));
    }
    let (good, text) = is_compatible(&library);
    assert!(good, "{text}(BLESS=1 if programs may break)");
}

#[test]
fn a_changed_function_is_seen() {
    let old = "int nvmeh_pin_count(const struct nvmeh_host *host);";
    let change = |header: &str| {
        assert!(header.contains(old), "the header has changed: choose another function");
        header.replace(old, "long nvmeh_pin_count(const struct nvmeh_host *host, int more);")
    };
    let (good, text) = is_compatible(&stub("nvmehost-changed", change));
    assert!(!good && text.contains("nvmeh_pin_count"), "{text}");
}

#[test]
fn a_removed_member_is_seen() {
    let change = |header: &str| header.replacen("  uint64_t remaining_ms;\n", "", 1);
    let (good, text) = is_compatible(&stub("nvmehost-member", change));
    assert!(!good && text.contains("nvmeh_head_status"), "{text}");
}
