//! `examples/c/quickstart.c` and a C++ program by every compiler and in every way of linking.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;

use nvme_target::Target;

use crate::bench::{
    Installed, STRICT, VALGRIND, c, compile, compile_static, example, installed, pkg_config, run,
    target, tmp,
};

/// Does with the target's ports what a program orders: `down 1`, `up 1`.
fn obey(target: &Target, orders: &Path) {
    let orders = BufReader::new(std::fs::File::open(orders).expect("a pipe"));
    for order in orders.lines() {
        let order = order.expect("an order");
        let (what, port) = order.split_once(' ').expect("two words");
        let port = port.parse::<usize>().expect("a number") - 1;
        let port = target.listener(port).expect("a port");
        match what {
            "down" => port.disable().expect("disabling"),
            "up" => port.enable().expect("enabling"),
            _ => panic!("{order}"),
        }
    }
}

fn play(program: &mut Command) {
    let (target, [a, b]) = target();
    let orders = tmp().join(a.replace('/', "-"));
    let _ = std::fs::remove_file(&orders);
    run(Command::new("mkfifo").arg(&orders));
    let text = std::thread::scope(|scope| {
        scope.spawn(|| obey(&target, &orders));
        // Nobody may wait for a program that has not come to open its end.
        let _open = std::fs::File::options().read(true).write(true).open(&orders).expect("a pipe");
        run(program.args([&a, &b, "6000"]).arg(&orders))
    });
    assert!(text.contains(": good"), "{text}");
    assert!(text.contains("is lost"), "the paths were cut: {text}");
}

#[test]
fn gcc_with_the_shared_library() {
    let source = example("quickstart.c");
    play(&mut Command::new(compile("gcc", &installed().plain, &source, "qs-gcc", &STRICT)));
}

#[test]
fn gcc_with_the_library_in_it() {
    let prefix = &installed().plain;
    let source = example("quickstart.c");
    play(&mut Command::new(compile_static("gcc", prefix, &source, "qs-gcc-a", &STRICT)));
}

#[test]
fn clang_with_the_shared_library() {
    let source = example("quickstart.c");
    play(&mut Command::new(compile("clang", &installed().plain, &source, "qs-clang", &STRICT)));
}

#[test]
fn clang_with_the_library_in_it() {
    let prefix = &installed().plain;
    let source = example("quickstart.c");
    play(&mut Command::new(compile_static("clang", prefix, &source, "qs-clang-a", &STRICT)));
}

/// For targets that take no orders.
#[test]
fn paths_can_be_disconnected_instead() {
    let (_target, [a, b]) = target();
    let program =
        compile("gcc", &installed().plain, &example("quickstart.c"), "qs-disconnect", &STRICT);
    let text = run(Command::new(program).args([&a, &b, "6000"]));
    assert!(text.contains(": good"), "{text}");
}

#[test]
fn cplusplus_does_io_in_every_way_of_linking() {
    let strict = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-pedantic"];
    let (_target, [url, _]) = target();
    let (prefix, source) = (&installed().plain, c("io.cpp"));
    for compiler in ["g++", "clang++"] {
        let shared = compile(compiler, prefix, &source, &format!("io-{compiler}"), &strict);
        let whole = compile_static(compiler, prefix, &source, &format!("io-{compiler}-a"), &strict);
        for program in [shared, whole] {
            assert!(run(Command::new(program).arg(&url)).contains("good"));
        }
    }
}

/// As a distribution does it: installed below `DESTDIR`, used where nothing else is.
#[test]
fn what_was_staged_is_found_by_pkg_config_in_an_empty_directory() {
    installed(); // builds first, since both build in the same place
    let clean = tmp().join("clean");
    let _ = std::fs::remove_dir_all(&clean);
    std::fs::create_dir_all(clean.join("work")).expect("a directory");
    let prefix = clean.join("root/opt/nvmehost");
    Installed::stage(&clean.join("root"), "/opt/nvmehost");
    for file in ["include/nvmehost.h", "lib/libnvmehost.so.0", "lib/libnvmehost.a"] {
        assert!(prefix.join(file).exists(), "{file}");
    }
    assert!(prefix.join("share/doc/nvmehost/nvmehost.html").exists());
    // What pkg-config says is about the place after the staging.
    let flags = pkg_config(&prefix, &["--cflags", "--libs"]);
    assert!(flags.contains(&"-I/opt/nvmehost/include".to_owned()), "{flags:?}");
    std::fs::copy(example("quickstart.c"), clean.join("work/quickstart.c")).expect("room");
    let script = "cc $(pkg-config --define-prefix --cflags nvmehost) quickstart.c \
                  $(pkg-config --define-prefix --libs nvmehost) -o quickstart && ./quickstart";
    let mut sh = Command::new("sh");
    sh.args(["-c", script]).current_dir(clean.join("work"));
    sh.env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"));
    sh.env("LD_LIBRARY_PATH", prefix.join("lib"));
    let output = crate::bench::finish(&mut sh);
    let text = String::from_utf8_lossy(&output.stderr);
    // It runs, and misses its arguments.
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("usage: ./quickstart URL URL"), "{text}");
}

#[test]
fn no_error_and_no_leak_by_address_sanitizer() {
    let flags = [&STRICT[..], &["-fsanitize=address", "-fno-omit-frame-pointer"]].concat();
    let source = example("quickstart.c");
    let program = compile_static("gcc", &installed().plain, &source, "qs-asan", &flags);
    play(Command::new(program).env("ASAN_OPTIONS", "detect_leaks=1"));
}

#[test]
fn no_error_and_no_leak_by_valgrind() {
    let source = example("quickstart.c");
    let program = compile("gcc", &installed().plain, &source, "qs-valgrind", &STRICT);
    play(Command::new("valgrind").args(VALGRIND).arg(program));
}
