//! Which part of the way of an I/O a piece of code belongs to, by the file that it is from.

use nvme_host_benches::callgrind::Place;

/// From the program down to the wire or the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    Loop,
    Head,
    Commands,
    TcpQueue,
    Codec,
    Digests,
    Driver,
    Copies,
    System,
    Device,
    Other,
}

/// Parts of paths, the first that is found counts.
const PATHS: [(&str, Layer); 11] = [
    ("benches/src/ring.rs", Layer::Device),
    ("benches/src/instant.rs", Layer::Device),
    ("nvme-target/src/", Layer::Device),
    ("benches/src/", Layer::Loop),
    ("nvme-mpath/src/", Layer::Head),
    ("nvme-core/src/", Layer::Commands),
    ("nvme-tcp/src/conn/", Layer::Codec),
    ("nvme-tcp/src/", Layer::TcpQueue),
    ("nvme-pci/src/", Layer::Driver),
    ("crc-fast", Layer::Digests),
    ("rustix", Layer::System),
];

/// Parts of names of functions of the C library.
const NAMES: [(&str, Layer); 7] = [
    ("memcpy", Layer::Copies),
    ("memmove", Layer::Copies),
    ("memset", Layer::Copies),
    ("clock_gettime", Layer::System),
    ("read", Layer::System),
    ("send", Layer::System),
    ("epoll", Layer::System),
];

impl Layer {
    pub const ALL: [Self; 11] = [
        Self::Loop,
        Self::Head,
        Self::Commands,
        Self::TcpQueue,
        Self::Codec,
        Self::Digests,
        Self::Driver,
        Self::Copies,
        Self::System,
        Self::Device,
        Self::Other,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Loop => "the loop",
            Self::Head => "head (nvme-mpath)",
            Self::Commands => "commands, buffers (nvme-core)",
            Self::TcpQueue => "TCP queue and socket (nvme-tcp)",
            Self::Codec => "TCP connection: PDUs (nvme-tcp/conn)",
            Self::Digests => "digests",
            Self::Driver => "PCI driver (nvme-pci)",
            Self::Copies => "copies (libc)",
            Self::System => "system calls and clock, in user space",
            Self::Device => "device of the bench",
            Self::Other => "other",
        }
    }

    pub const fn color(self) -> &'static str {
        match self {
            Self::Loop => "#d0d7de",
            Self::Head => "#54aeff",
            Self::Commands => "#76e3ea",
            Self::TcpQueue => "#ffb77c",
            Self::Codec => "#fd8c73",
            Self::Digests => "#ff9bce",
            Self::Driver => "#ffb77c",
            Self::Copies => "#eac54f",
            Self::System => "#c297ff",
            Self::Device => "#afb8c1",
            Self::Other => "#eaeef2",
        }
    }
}

fn of_file(file: &str) -> Option<Layer> {
    PATHS.iter().find(|(part, _)| file.contains(part)).map(|(_, layer)| *layer)
}

fn of_name(name: &str) -> Option<Layer> {
    // Ours have a type or a module before them.
    let plain = !name.contains("::");
    NAMES.iter().find(|(part, _)| plain && name.contains(part)).map(|(_, layer)| *layer)
}

/// The layer of a place: code of the standard library is its caller's.
pub fn of(place: &Place) -> Layer {
    let functions = place.stack.iter().rev();
    let last = place.stack.last().and_then(|frame| of_name(&frame.name));
    of_file(&place.file)
        .or(last)
        .or_else(|| functions.into_iter().find_map(|frame| of_file(&frame.file)))
        .unwrap_or(Layer::Other)
}

/// The layer of the function of a place, with nothing inlined.
pub fn of_function(place: &Place) -> Layer {
    let file = place.stack.last().map(|frame| frame.file.clone()).unwrap_or_default();
    of(&Place { stack: place.stack.clone(), file })
}

/// The file of ours that a part of a function is from, where it is not the function's own.
pub fn inlined(place: &Place) -> Option<&str> {
    let home = place.stack.last().map_or("", |frame| frame.file.as_str());
    (place.file != home && of_file(&place.file).is_some()).then(|| {
        let file = place.file.as_str();
        // What is behind `src/` of a crate, or the file's name.
        let (before, rest) = file.rsplit_once("/src/").unwrap_or(("", file));
        let crate_at = before.rfind('/').map_or(0, |at| at + 1);
        if rest.contains('/') { rest } else { &file[crate_at..] }
    })
}
