//! `docs/screenshots.py` still finds on the screen what it makes pictures of.

use std::path::Path;
use std::process::Command;

use crate::common::{nvmeh, quickstart};

#[test]
fn the_pictures_in_docs_can_be_made_anew() {
    let quickstart = quickstart();
    // TARGET/PROFILE/nvmeh, and TARGET/PROFILE/examples/quickstart
    let programs = nvmeh().parent().unwrap().to_owned();
    assert_eq!(quickstart, programs.join("examples/quickstart"));
    let into = std::env::temp_dir().join(format!("nvmeh-docs-{}", std::process::id()));
    std::fs::create_dir(&into).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/screenshots.py");
    let mut command = Command::new("python3");
    command.arg(script).arg("--into").arg(&into);
    command.env("TARGET_DIR", programs.parent().unwrap());
    command.env("PROFILE", programs.file_name().unwrap());
    let made = command.output().unwrap_or_else(|e| panic!("python3: {e}; see tests/vm/setup.sh"));
    let told = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{told} (it needs tmux; see tests/vm/setup.sh)");
    for (name, words) in [
        (
            "watch-one-path.svg",
            &["nvmeh watch", "load, verified", "controllers without a path"][..],
        ),
        ("watch.svg", &["nvmeh watch", "removal in"]),
        ("timeline.svg", &["removal"]),
    ] {
        let drawn = std::fs::read_to_string(into.join(name)).unwrap();
        let document = roxmltree::Document::parse(&drawn).unwrap();
        let texts: Vec<&str> = document.descendants().filter_map(|node| node.text()).collect();
        for word in words {
            assert!(texts.iter().any(|text| text.contains(word)), "{name} without `{word}`");
        }
    }
    std::fs::remove_dir_all(&into).unwrap();
}
