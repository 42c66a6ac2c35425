//! The flame graph, as SVG: the loop at the top, below each box what it called, as wide as it
//! executes instructions.

use std::collections::BTreeMap;

use nvme_host_benches::callgrind::{Place, Profile};
use svg::Document;
use svg::node::element::{Group, Rectangle, Text, Title};

use crate::layer::{self, Layer};

const WIDTH: f64 = 1200.0;
const MARGIN: f64 = 12.0;
const ROW: f64 = 20.0;
/// Of a letter, with the font's size of 11.
const LETTER: f64 = 6.7;
/// What is not as wide as a line is left out.
const THINNEST: f64 = 0.8;
const INK: &str = "#24292f";

#[derive(Default)]
struct Node {
    layer: Option<Layer>,
    instructions: f64,
    parts: BTreeMap<String, Node>,
}

impl Node {
    fn part(&mut self, name: &str, layer: Layer, instructions: f64) -> &mut Self {
        let part = self.parts.entry(name.to_owned()).or_default();
        part.layer.get_or_insert(layer);
        part.instructions += instructions;
        part
    }

    /// Rows of parts that can be seen.
    fn depth(&self, scale: f64) -> usize {
        let seen = self.parts.values().filter(|part| part.instructions * scale >= THINNEST);
        seen.map(|part| part.depth(scale) + 1).max().unwrap_or(0)
    }
}

fn tree(profile: &Profile) -> Node {
    let mut root = Node::default();
    for (place, events) in &profile.0 {
        root.instructions += events.instructions;
        let mut node = &mut root;
        for depth in 1..=place.stack.len() {
            let stack = place.stack[..depth].to_vec();
            let file = stack[depth - 1].file.clone();
            let above = Place { stack, file };
            let name = above.stack[depth - 1].name.clone();
            node = node.part(&name, layer::of_function(&above), events.instructions);
        }
        if let Some(file) = layer::inlined(place) {
            node.part(file, layer::of(place), events.instructions);
        }
    }
    root
}

fn text(content: &str, x: f64, y: f64, size: f64) -> Text {
    Text::new(content).set("x", tenth(x)).set("y", tenth(y)).set("font-size", size).set("fill", INK)
}

fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Draws it.
pub fn draw(title: &str, profile: &Profile) -> String {
    let root = tree(profile);
    let layers = legend(profile);
    let top = 44.0 + layers.1;
    let scale = (WIDTH - 2.0 * MARGIN) / root.instructions.max(1e-9);
    let height = top + ROW * root.depth(scale) as f64 + MARGIN;
    let mut document = Document::new()
        .set("viewBox", (0, 0, WIDTH, height))
        .set("width", WIDTH)
        .set("height", height)
        .set("font-family", "DejaVu Sans, Helvetica, sans-serif")
        .add(Rectangle::new().set("width", WIDTH).set("height", height).set("fill", "#ffffff"))
        .add(text(title, MARGIN, 26.0, 16.0).set("font-weight", "bold"))
        .add(layers.0);
    let mut boxes = Group::new();
    put(&root, MARGIN, top, scale, &mut boxes);
    document = document.add(boxes);
    document.to_string()
}

/// The layers' colours and sums, and how high that is.
fn legend(profile: &Profile) -> (Group, f64) {
    let mut sums: BTreeMap<Layer, f64> = BTreeMap::new();
    for (place, events) in &profile.0 {
        *sums.entry(layer::of(place)).or_default() += events.instructions;
    }
    let (mut group, mut x, mut y) = (Group::new(), MARGIN, 44.0);
    for layer in Layer::ALL {
        let sum = sums.get(&layer).copied().unwrap_or_default();
        if sum < 0.5 {
            continue;
        }
        let told = format!("{} {sum:.0}", layer.name());
        let width = 18.0 + told.chars().count() as f64 * LETTER + 14.0;
        if x + width > WIDTH - MARGIN {
            (x, y) = (MARGIN, y + ROW);
        }
        let patch =
            Rectangle::new().set("x", x).set("y", y - 10.0).set("width", 12).set("height", 12);
        group = group.add(patch.set("fill", layer.color())).add(text(&told, x + 18.0, y, 11.0));
        x += width;
    }
    (group, y - 44.0 + 14.0)
}

fn put(node: &Node, mut x: f64, y: f64, scale: f64, boxes: &mut Group) {
    let mut parts: Vec<_> = node.parts.iter().collect();
    parts.sort_by(|a, b| b.1.instructions.total_cmp(&a.1.instructions));
    for (name, part) in parts {
        let width = part.instructions * scale;
        if width < THINNEST {
            continue;
        }
        let told = format!("{name}: {:.0}", part.instructions);
        let fill = part.layer.unwrap_or(Layer::Other).color();
        let rectangle = Rectangle::new().set("x", tenth(x)).set("y", y).set("fill", fill);
        let rectangle = rectangle.set("width", tenth((width - 0.6).max(0.4)));
        let rectangle = rectangle.set("height", ROW - 1.0).set("rx", 1);
        let mut group = Group::new().add(rectangle.add(Title::new(told.clone())));
        let room = ((width - 8.0) / LETTER).max(0.0) as usize;
        if room >= 4 {
            let fits = told.chars().count() <= room;
            let shown =
                if fits { told } else { told.chars().take(room - 1).chain(['…']).collect() };
            group = group.add(text(&shown, x + 4.0, y + 13.0, 11.0));
        }
        *boxes = std::mem::replace(boxes, Group::new()).add(group);
        put(part, x, y + ROW, scale, boxes);
        x += width;
    }
}
