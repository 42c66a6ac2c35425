//! The header in the repository is what the sources say.

use std::path::Path;

/// The header as the sources have it.
fn generate() -> String {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(here.join("cbindgen.toml")).expect("cbindgen.toml");
    let mut builder = cbindgen::Builder::new().with_config(config);
    let mut sources: Vec<_> = std::fs::read_dir(here.join("src"))
        .expect("the sources")
        .map(|entry| entry.expect("a source").path())
        .filter(|path| path.is_file() && !path.ends_with("lib.rs") && !path.ends_with("hooks.rs"))
        .collect();
    // What C reads first comes first.
    const ORDER: [&str; 15] = [
        "version",
        "error",
        "options",
        "host",
        "discovery",
        "controller",
        "admin",
        "head",
        "paths",
        "completion",
        "channel",
        "io",
        "without_data",
        "request",
        "events",
    ];
    sources.sort_by_key(|path| {
        let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default().to_owned();
        (ORDER.iter().position(|o| *o == stem).unwrap_or(ORDER.len()), stem)
    });
    for source in sources {
        builder = builder.with_src(source);
    }
    let mut text = Vec::new();
    builder.generate().expect("a header").write(&mut text);
    let text = String::from_utf8(text).expect("UTF-8");
    // The promises to Rust's unsafe code say nothing to C that the text before does not.
    let mut out = String::new();
    let mut safety = false;
    for line in text.lines() {
        match line {
            "// # Safety" => safety = true,
            _ if !line.starts_with("//") => safety = false,
            _ => {}
        }
        if !safety {
            out.push_str(line);
            out.push('\n');
        }
    }
    out.replace("//\nint ", "int ")
        .replace("//\nvoid ", "void ")
        .replace("//\nuint32_t ", "uint32_t ")
        .replace("//\nsize_t ", "size_t ")
}

#[test]
fn the_header_is_what_the_sources_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../include/nvmehost.h");
    let new = generate();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &new).expect("a header that can be written");
    }
    let old = std::fs::read_to_string(&path).unwrap_or_default();
    if let Some((at, (is, should))) =
        old.lines().zip(new.lines()).enumerate().find(|(_, (is, should))| is != should)
    {
        panic!(
            "include/nvmehost.h:{}: is\n    {is}\nbut the sources say\n    {should}\n\
             (BLESS=1 cargo test -p nvmehost --test header)",
            at + 1
        );
    }
    assert_eq!(old.len(), new.len(), "include/nvmehost.h is cut, or too long");
}
