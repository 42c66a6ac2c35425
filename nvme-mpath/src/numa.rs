//! Which memory node is how far from which.

use std::fs;
use std::path::Path;

/// Where the system tells of its nodes.
const NODES: &str = "/sys/devices/system/node";

/// The distance of a node from itself (`ACPI 6.5 §5.2.17`).
const LOCAL: u32 = 10;

/// Distances between the NUMA nodes of a machine, and which node a processor belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NumaTopology {
    /// By node, then by node. Nodes that are not there have an empty row.
    distances: Vec<Vec<u32>>,
    /// By processor.
    node_of_cpu: Vec<u32>,
}

impl NumaTopology {
    /// What the running system says; without nodes where it says nothing.
    #[must_use]
    pub fn system() -> Self {
        Self::read(Path::new(NODES))
    }

    /// A machine whose node `a` is `distances[a][b]` away from node `b`, and whose processor `c`
    /// belongs to node `node_of_cpu[c]`. A node is 10 away from itself, as the firmware tells it.
    #[must_use]
    pub fn new(distances: Vec<Vec<u32>>, node_of_cpu: Vec<u32>) -> Self {
        Self { distances, node_of_cpu }
    }

    /// One as a text tells it: for each node, from 0 on and with `;` between them, its processors as the
    /// system lists them, `=`, and its distances to all nodes with `,` between them, such as
    /// `0-3,8=10,21;4-7=21,10`. A node without processors has nothing before the `=`.
    ///
    /// # Errors
    /// What is wrong with which node.
    pub fn parse(text: &str) -> Result<Self, String> {
        let nodes: Vec<&str> = text.split(';').collect();
        let mut topology = Self::default();
        // `None`: not told so far.
        let mut node_of_cpu: Vec<Option<u32>> = Vec::new();
        for (at, node) in nodes.iter().enumerate() {
            let wrong = |what: &str| format!("node {at}, {node:?}: {what}");
            let (cpus, row) = node
                .split_once('=')
                .ok_or_else(|| wrong("not of the form PROCESSORS=DISTANCES"))?;
            let row: Option<Vec<u32>> = row.split(',').map(|n| n.trim().parse().ok()).collect();
            let row = row.filter(|row| row.len() == nodes.len());
            let row = row.ok_or_else(|| wrong(&format!("not {} distances", nodes.len())))?;
            topology.distances.push(row);
            let parts = cpus.trim().split(',').filter(|part| !part.is_empty());
            for part in parts {
                let cpus = ranges(part);
                if cpus.is_empty() {
                    return Err(wrong(&format!("{part:?} are no processors")));
                }
                for cpu in cpus {
                    let cpu = cpu as usize;
                    node_of_cpu.resize(node_of_cpu.len().max(cpu + 1), None);
                    if node_of_cpu[cpu].replace(at as u32).is_some() {
                        return Err(wrong(&format!("processor {cpu} is told twice")));
                    }
                }
            }
        }
        topology.node_of_cpu = node_of_cpu.into_iter().map(Option::unwrap_or_default).collect();
        Ok(topology)
    }

    fn read(root: &Path) -> Self {
        let text = |name: &str| fs::read_to_string(root.join(name)).unwrap_or_default();
        let mut topology = Self::default();
        let online = ranges(&text("online"));
        for node in online.iter().copied() {
            let row = text(&format!("node{node}/distance"));
            // The row has a column for each node that is online, in their order.
            let columns = online.iter().copied();
            let at = node as usize;
            topology.distances.resize(topology.distances.len().max(at + 1), Vec::new());
            for (column, distance) in columns.zip(row.split_whitespace()) {
                let row = &mut topology.distances[at];
                let column = column as usize;
                row.resize(row.len().max(column + 1), u32::MAX);
                row[column] = distance.parse().unwrap_or(u32::MAX);
            }
            for cpu in ranges(&text(&format!("node{node}/cpulist"))) {
                let (cpu, list) = (cpu as usize, &mut topology.node_of_cpu);
                list.resize(list.len().max(cpu + 1), 0);
                list[cpu] = node;
            }
        }
        topology
    }

    /// The node of a processor.
    #[must_use]
    pub fn node_of(&self, cpu: usize) -> Option<u32> {
        self.node_of_cpu.get(cpu).copied()
    }

    /// How far it is from node `a` to node `b`. A controller or a channel without a node is near
    /// everything, as Linux has it.
    #[must_use]
    pub fn distance(&self, a: Option<u32>, b: Option<u32>) -> u32 {
        let (Some(a), Some(b)) = (a, b) else { return LOCAL };
        if a == b {
            return LOCAL;
        }
        let row = self.distances.get(a as usize);
        row.and_then(|row| row.get(b as usize)).copied().unwrap_or(u32::MAX)
    }
}

/// The numbers of a list such as `0-3,8`. What makes no sense, or no machine has, is left out.
fn ranges(text: &str) -> Vec<u32> {
    const MOST: u32 = 1 << 16;
    let parts = text.trim().split(',').filter_map(|part| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (u32, u32) = (from.parse().ok()?, to.parse().ok()?);
        (from <= to && to < MOST).then_some(from..=to)
    });
    parts.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_a_topology() {
        let topology = NumaTopology::parse("0-1,5=10,21;=21,10").unwrap();
        let nodes = vec![0, 0, 0, 0, 0, 0];
        assert_eq!(topology, NumaTopology::new(vec![vec![10, 21], vec![21, 10]], nodes));
        assert_eq!(NumaTopology::parse("0=10").unwrap().node_of(0), Some(0));
        assert_eq!(NumaTopology::parse("=10,20;3=20,10").unwrap().node_of(3), Some(1));
        for (text, why) in [
            ("", "form"),
            ("0-1", "form"),
            ("0=10;1=20,10", "2 distances"),
            ("0=10,20;1=20,x", "2 distances"),
            ("0=10,20;0=20,10", "processor 0 is told twice"),
            ("0-99999=10", "no processors"),
            ("one=10", "no processors"),
        ] {
            let error = NumaTopology::parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn the_systems_files_are_read() {
        let root = std::env::temp_dir().join(format!("numa-{}", std::process::id()));
        for (node, distance, cpus) in [("0", "10 21", "0-1,4"), ("2", "21 10", "2-3")] {
            let dir = root.join(format!("node{node}"));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("distance"), distance).unwrap();
            fs::write(dir.join("cpulist"), cpus).unwrap();
        }
        fs::write(root.join("online"), "0,2\n").unwrap();
        let topology = NumaTopology::read(&root);
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(topology.distance(Some(0), Some(2)), 21);
        assert_eq!(topology.distance(Some(2), Some(2)), 10);
        assert_eq!((topology.distance(None, Some(2)), topology.distance(Some(2), None)), (10, 10));
        assert_eq!(topology.distance(Some(0), Some(7)), u32::MAX);
        assert_eq!(
            (topology.node_of(4), topology.node_of(3), topology.node_of(9)),
            (Some(0), Some(2), None)
        );
        assert_eq!(NumaTopology::read(&root), NumaTopology::default());
    }
}
