//! The mutations fit the sources: one that does not would be missed only when all of them are tried.

use std::process::Command;

#[test]
fn each_mutation_changes_what_it_names() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/mutations.sh");
    let found = Command::new(script).arg("--fit").output().unwrap();
    let text = String::from_utf8_lossy(&found.stdout) + String::from_utf8_lossy(&found.stderr);
    assert!(found.status.success(), "{text}");
}
