//! Targets that tests run on: Linux's own in the guest, and the software target.

use std::sync::Mutex;
use std::time::Duration;

use nvme_core::ana::AnaState;
use nvme_core::nqn::{Nqn, Uuid};
use nvme_core::spec::opcode::NvmOpcode;
use nvme_target::{
    FaultAction, FaultId, FaultRule, NamespaceConfig, NamespaceIds, SubsystemConfig, Target,
    TargetBuilder,
};
use nvme_vm::{Guest, Shared};

/// The ports of a bed.
pub const PORTS: [u16; 2] = [1, 2];
/// The ANA groups of a bed. Namespace 1 is in group 1, namespace 2 in group 2.
pub const GROUPS: [u32; 2] = [1, 2];

/// A target with one subsystem at two ports ([`PORTS`]), and two namespaces of 128 MiB: 1 with
/// blocks of 512 bytes in ANA group 1, 2 with blocks of 4096 bytes in group 2. All is optimized.
pub trait Bed {
    /// Its name, for messages.
    fn name(&self) -> &'static str;
    /// NQN of the subsystem.
    fn subnqn(&self) -> Nqn;
    /// ADDRESS:PORT of a port, as the host reaches it.
    fn address(&self, port: u16) -> String;
    /// URL of the subsystem at a port.
    fn url(&self, port: u16) -> String {
        format!("tcp://{}/{}", self.address(port), self.subnqn())
    }
    /// Ends the connections at a port and takes no new ones.
    fn disable(&self, port: u16);
    /// Takes connections at the port again.
    fn enable(&self, port: u16);
    /// Ends the connections at a port; new ones are taken.
    fn cut(&self, port: u16);
    /// Leaves the connections at a port open and answers nothing on them.
    fn silence(&self, port: u16);
    /// Answers again.
    fn unsilence(&self, port: u16);
    /// Sets the state of an ANA group at a port.
    fn set_ana(&self, port: u16, group: u32, state: AnaState);
    /// Makes a namespace vanish; its contents stay.
    fn hide(&self, nsid: u32);
    /// Makes a hidden namespace appear.
    fn show(&self, nsid: u32);
    /// Gives a hidden namespace another UUID.
    fn set_uuid(&self, nsid: u32, uuid: Uuid);
    /// Sets the size of a namespace in its blocks.
    fn resize(&self, nsid: u32, blocks: u64);
    /// Begins to count what comes to the ports.
    fn watch(&self);
    /// How many writes of 4 KiB came to a port since [`Bed::watch`], more or less: what else came is
    /// counted as well, by its size.
    fn writes_seen(&self, port: u16) -> u64;
}

/// Linux's own target, in the guest that all tests of a binary share.
pub struct Nvmet {
    /// The guest.
    pub guest: Shared,
}

impl Nvmet {
    /// Waits for the guest and takes it, in its first state.
    #[must_use]
    pub fn new() -> Self {
        Self { guest: Guest::shared().expect("the guest") }
    }
}

impl Default for Nvmet {
    fn default() -> Self {
        Self::new()
    }
}

impl Bed for Nvmet {
    fn name(&self) -> &'static str {
        "nvmet"
    }

    fn subnqn(&self) -> Nqn {
        Nqn::new(self.guest.subnqn()).expect("the guest's NQN")
    }

    fn address(&self, port: u16) -> String {
        self.guest.addr(port).expect("a port of the guest").to_string()
    }

    fn disable(&self, port: u16) {
        self.guest.disable_port(port).expect("disabling a port");
    }

    fn enable(&self, port: u16) {
        self.guest.enable_port(port).expect("enabling a port");
    }

    fn cut(&self, port: u16) {
        self.guest.cut_connections(port).expect("cutting connections");
    }

    fn silence(&self, port: u16) {
        self.guest.drop_traffic(port).expect("dropping traffic");
    }

    fn unsilence(&self, port: u16) {
        self.guest.restore_traffic(port).expect("restoring traffic");
    }

    fn set_ana(&self, port: u16, group: u32, state: AnaState) {
        let state = match state {
            AnaState::Optimized => nvme_vm::AnaState::Optimized,
            AnaState::NonOptimized => nvme_vm::AnaState::NonOptimized,
            AnaState::Inaccessible => nvme_vm::AnaState::Inaccessible,
            AnaState::PersistentLoss => nvme_vm::AnaState::PersistentLoss,
            AnaState::Change => nvme_vm::AnaState::Change,
        };
        self.guest.set_ana(port, group, state).expect("setting an ANA state");
    }

    fn hide(&self, nsid: u32) {
        self.guest.disable_namespace(nsid).expect("disabling a namespace");
    }

    fn show(&self, nsid: u32) {
        self.guest.enable_namespace(nsid).expect("enabling a namespace");
    }

    fn set_uuid(&self, nsid: u32, uuid: Uuid) {
        self.guest.set_namespace_uuid(nsid, uuid.0).expect("setting a UUID");
    }

    fn resize(&self, nsid: u32, blocks: u64) {
        self.guest.resize_namespace(nsid, blocks).expect("resizing a namespace");
    }

    fn watch(&self) {
        let rule = |port| {
            let service = self.guest.guest_addr(port).expect("a port of the guest").port();
            format!("tcp dport {service} counter name port{port}\n")
        };
        let counters = PORTS.map(|port| format!("counter port{port} {{ }}\n")).concat();
        let rules = PORTS.map(rule).concat();
        let chain = format!("chain in {{\ntype filter hook input priority -10\n{rules}}}\n");
        let table = "inet watch";
        let script = format!(
            "touch /run/nft-used\nnft 'add table {table}\ndelete table {table}\n\
             table {table} {{\n{counters}{chain}}}'"
        );
        let _ = self.guest.sh(&script).expect("counting what comes");
    }

    fn writes_seen(&self, port: u16) -> u64 {
        let script = format!("nft list counter inet watch port{port}");
        let text = self.guest.sh(&script).expect("reading a counter");
        let mut words = text.split_whitespace().skip_while(|word| *word != "bytes").skip(1);
        let bytes = words.next().and_then(|word| word.parse::<u64>().ok());
        bytes.unwrap_or_else(|| panic!("no counter in {text}")) / 4096
    }
}

/// The software target, in this process.
pub struct Software {
    /// The target; its listener `n` is port `n + 1`.
    pub target: Target,
    subnqn: Nqn,
    silences: Mutex<Vec<(u16, FaultId)>>,
    watches: Mutex<Vec<(FaultId, u16)>>,
}

impl Software {
    /// A target as [`Bed`] describes it.
    #[must_use]
    pub fn new() -> Self {
        Self::with(|subsystem| subsystem)
    }

    /// As [`Software::new`], with more said of the subsystem.
    #[must_use]
    pub fn with(more: impl FnOnce(SubsystemConfig) -> SubsystemConfig) -> Self {
        let namespaces = |subsystem: SubsystemConfig| {
            subsystem
                .namespace(NamespaceConfig::memory(1, 128 << 20).block_size(512).ana_group(1))
                .namespace(NamespaceConfig::memory(2, 128 << 20).block_size(4096).ana_group(2))
        };
        Self::start(|subsystem| more(namespaces(subsystem)), |target| target)
    }

    /// A target with two listeners and a subsystem without namespaces, changed at will.
    #[must_use]
    pub fn start(
        subsystem: impl FnOnce(SubsystemConfig) -> SubsystemConfig,
        target: impl FnOnce(TargetBuilder) -> TargetBuilder,
    ) -> Self {
        let subnqn = Nqn::new("nqn.2026-01.org.example:software").expect("an NQN");
        let config = SubsystemConfig::new(subnqn.as_str()).expect("a subsystem");
        let builder = Target::builder().subsystem(subsystem(config));
        let builder = PORTS.iter().fold(builder, |b, _| b.listen("127.0.0.1:0"));
        let target = target(builder).start().expect("a target");
        Self { target, subnqn, silences: Mutex::default(), watches: Mutex::default() }
    }

    /// Ends what [`Bed::watch`] began.
    pub fn watch_no_more(&self) {
        let mut watches = self.watches.lock().expect("no panic with the lock held");
        for (id, _) in watches.drain(..) {
            let _ = self.target.remove_fault(id);
        }
    }

    /// The listener of a port.
    #[must_use]
    pub fn listener(port: u16) -> usize {
        usize::from(port) - 1
    }
}

impl Default for Software {
    fn default() -> Self {
        Self::new()
    }
}

/// A state in the software target's words.
#[must_use]
pub fn target_ana(state: AnaState) -> nvme_target::AnaState {
    match state {
        AnaState::Optimized => nvme_target::AnaState::Optimized,
        AnaState::NonOptimized => nvme_target::AnaState::NonOptimized,
        AnaState::Inaccessible => nvme_target::AnaState::Inaccessible,
        AnaState::PersistentLoss => nvme_target::AnaState::PersistentLoss,
        AnaState::Change => nvme_target::AnaState::Change,
    }
}

impl Bed for Software {
    fn name(&self) -> &'static str {
        "software target"
    }

    fn subnqn(&self) -> Nqn {
        self.subnqn.clone()
    }

    fn address(&self, port: u16) -> String {
        self.target.addr(Self::listener(port)).expect("a listener").to_string()
    }

    fn disable(&self, port: u16) {
        let listener = self.target.listener(Self::listener(port)).expect("a listener");
        listener.disable().expect("disabling a listener");
    }

    fn enable(&self, port: u16) {
        let listener = self.target.listener(Self::listener(port)).expect("a listener");
        listener.enable().expect("enabling a listener");
    }

    fn cut(&self, port: u16) {
        self.target.kill_connections(Self::listener(port)).expect("cutting connections");
    }

    fn silence(&self, port: u16) {
        let rule = FaultRule::new(FaultAction::Drop).listener(Self::listener(port));
        let id = self.target.add_fault(rule);
        self.silences.lock().expect("no panic with the lock held").push((port, id));
    }

    fn unsilence(&self, port: u16) {
        let mut silences = self.silences.lock().expect("no panic with the lock held");
        silences.retain(|&(silenced, id)| {
            if silenced == port {
                let _ = self.target.remove_fault(id);
            }
            silenced != port
        });
    }

    fn set_ana(&self, port: u16, group: u32, state: AnaState) {
        let set = self.target.set_ana(Self::listener(port), group, target_ana(state));
        set.expect("setting an ANA state");
    }

    fn hide(&self, nsid: u32) {
        self.target.enable_namespace(nsid, false).expect("disabling a namespace");
    }

    fn show(&self, nsid: u32) {
        self.target.enable_namespace(nsid, true).expect("enabling a namespace");
    }

    fn set_uuid(&self, nsid: u32, uuid: Uuid) {
        let ids = NamespaceIds { uuid, ..NamespaceIds::default() };
        self.target.set_namespace_ids(nsid, ids).expect("setting identifiers");
    }

    fn watch(&self) {
        self.watch_no_more();
        let mut watches = self.watches.lock().expect("no panic with the lock held");
        for port in PORTS {
            // A rule that changes nothing, for the sake of its count.
            let rule = FaultRule::new(FaultAction::Delay(Duration::ZERO));
            let rule = rule.listener(Self::listener(port)).io().opcode(NvmOpcode::WRITE.0);
            watches.push((self.target.add_fault(rule), port));
        }
    }

    fn writes_seen(&self, port: u16) -> u64 {
        let watches = self.watches.lock().expect("no panic with the lock held");
        let found = watches.iter().find(|(_, p)| *p == port);
        found.and_then(|(id, _)| self.target.fault_hits(*id)).unwrap_or(0)
    }

    fn resize(&self, nsid: u32, blocks: u64) {
        let block_size: u64 = if nsid == 1 { 512 } else { 4096 };
        self.target.resize_namespace(nsid, blocks * block_size).expect("resizing a namespace");
    }
}
