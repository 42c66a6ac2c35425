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
