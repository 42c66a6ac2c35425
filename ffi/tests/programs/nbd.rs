//! `examples/c/nvmehost-plugin.c`: NBD clients on a multipath namespace.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bench::{Checked, finish, run, tmp, with_asan};
use crate::programs::{Ports, all, made, make, run_with_a_cut, target};

/// nbdkit with the plugin, which runs a shell script with `$uri` as its client, and ends with it.
fn nbdkit(program: &mut Command, plugins: &Path, ports: &dyn Ports, script: &str) {
    program.args(["-f", "-U", "-"]).arg(plugins.join("nvmehost-plugin.so"));
    for url in ports.urls() {
        program.arg(format!("url={url}"));
    }
    program.args(["delayed-removal=30", "option=reconnect_delay_ms=100"]);
    // What is in nbdkit for the plugin's sake is none of its client's business.
    program.arg("--run").arg(format!("set -e; unset LD_PRELOAD\n{script}"));
}

fn image(name: &str, mib: u32) -> PathBuf {
    let path = tmp().join(name);
    run(Command::new("sh")
        .arg("-c")
        .arg(format!("head -c {mib}M /dev/urandom > {}", path.display())));
    path
}

/// The image goes in, is compared by SHA-256 on the way out, and a path goes and comes in both: again and
/// again until that is over, however fast the target is.
pub fn copy(ports: &dyn Ports, name: &str, mib: u32) {
    let image = image(name, mib);
    let image = image.display();
    for script in [
        format!("until nbdcopy {image} \"$uri\" || exit 1; [ -e \"$BACK\" ]; do :; done"),
        // The namespace may be larger.
        format!(
            "want=$(sha256sum < {image}); until\n\
             got=$(nbdcopy \"$uri\" - | head -c {mib}M | sha256sum)\n\
             [ \"$want\" = \"$got\" ] || {{ echo \"$want, not $got\"; exit 1; }}\n\
             [ -e \"$BACK\" ]; do :; done; echo same"
        ),
    ] {
        let mut program = Command::new("nbdkit");
        nbdkit(&mut program, made(), ports, &script);
        let text = run_with_a_cut(ports, &mut program);
        assert_eq!(script.contains("echo same"), text.contains("same"), "{text}");
    }
    std::fs::remove_file(image.to_string()).expect("the image");
}

/// Patterns by qemu-io, and some load by qemu-img.
const PATTERNS: &str = r#"
    io() { qemu-io -f raw "$@" "$uri"; }
    io -c 'write -P 0x5a 1M 3M' -c 'write -f -P 0xa5 2M 64k' -c 'flush' > said
    io -c 'read -P 0x5a 1M 1M' -c 'read -P 0xa5 2M 64k' -c 'read -P 0x5a 2112k 1984k' > said
    io -c 'write -z 2M 1M' -c 'read -P 0 2M 1M' -c 'read -P 0x5a 1M 1M' -c 'write -z -u 3M 4k' > said
    io -c 'discard 1M 1M' -c 'write -P 7 1M 4k' -c 'read -P 7 1M 4k' > said
    ! grep -i -E 'fail|error' said
    qemu-img bench -f raw -c 500 -d 16 -s 16k -w --flush-interval 100 "$uri"
    qemu-img bench -f raw -c 500 -d 16 -s 64k "$uri"
    nbdinfo --json "$uri" > info
    for can in can_fua can_multi_conn can_trim can_zero can_flush can_fast_zero; do
        grep -q "\"$can\": true" info || { echo "not $can"; cat info; exit 1; }
    done
    grep -q '"block_size_minimum": 4096' info || { cat info; exit 1; }
    echo all good
"#;

pub fn patterns(program: &mut Command, plugins: &Path, ports: &dyn Ports, directory: &str) {
    let directory = tmp().join(directory);
    std::fs::create_dir_all(&directory).expect("a directory");
    nbdkit(program, plugins, ports, PATTERNS);
    let text = run(program.current_dir(directory));
    assert!(text.contains("all good"), "{text}");
    for word in ["nbdkit: nvmehost", "AddressSanitizer", "error"] {
        assert!(!text.contains(word), "{text}");
    }
}

#[test]
fn an_image_is_copied_in_and_out_while_a_path_goes_and_comes() {
    copy(&target(), "image-software", 256);
}

#[test]
fn patterns_and_load_by_qemu() {
    patterns(&mut Command::new("nbdkit"), made(), &target(), "nbd");
}

#[test]
fn no_error_and_no_leak_by_address_sanitizer() {
    let plugins = make("gcc", "address");
    patterns(&mut with_asan("nbdkit", &[]), &plugins, &target(), "nbd-asan");
}

#[test]
fn no_error_and_no_leak_by_valgrind() {
    let (checked, mut nbdkit) = Checked::new("nbdkit", "nbdkit.supp", "nbdkit");
    patterns(&mut nbdkit, made(), &target(), "nbd-valgrind");
    checked.assert_clean();
}

/// What is wrong is told.
#[test]
fn what_cannot_be_is_said() {
    let target = target();
    let [url, _] = target.urls();
    let url = format!("url={url}");
    let before_it_serves = [
        (&[][..], "url=URL is missing"),
        (&["size=1"], "unknown parameter 'size'"),
        (&[&url, "option=depth"], "not of the form option=NAME=VALUE"),
        (&[&url, "option=colour=red"], "no such option. Host: "),
        (&[&url, "policy=best"], "policy=best: "),
        (&[&url, "fence=maybe"], "none of auto, strict, off"),
        (&[&url, "channels=0"], "not within 1 to 256"),
    ];
    let afterwards = [
        (&["url=ftp://127.0.0.1/x"][..], "url=ftp://127.0.0.1/x: "),
        (&[&url[..], "nsid=9", "connect-timeout=1"], "namespace 9: "),
        (&["url=tcp://127.0.0.1:1/nqn.2026-01.org.example:x", "connect-timeout=1"], "refused"),
    ];
    let cases = before_it_serves.iter().map(|case| (case, true));
    for (&(arguments, text), early) in cases.chain(afterwards.iter().map(|case| (case, false))) {
        let mut program = Command::new("nbdkit");
        program.args(["-f", "-U", "-"]).arg(made().join("nvmehost-plugin.so")).args(arguments);
        let output = finish(program.args(["--run", "echo served"]));
        let said = all(&output);
        assert!(said.contains(text), "{arguments:?}: {said}");
        // Otherwise the status is that of the client, which nbdkit may have begun by then.
        assert!(!early || output.status.code() == Some(1), "{arguments:?}: {}", output.status);
        assert!(!early || output.stdout.is_empty(), "{arguments:?} is served: {said}");
    }
}
