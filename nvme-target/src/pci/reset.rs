//! Resets of the queues, of the function and of the subsystem, and the pulling of the device.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::engine::{Engine, new_controller};

impl Engine {
    pub(super) fn forget_queues(&mut self) {
        self.sqs.clear();
        self.cqs.clear();
        self.kept.clear();
        self.shadow = None;
        self.end_host_memory();
    }

    /// Everything as after power on, except for what the device is connected to.
    fn initialise(&mut self) {
        self.forget_queues();
        (self.aqa, self.asq, self.acq) = (0, 0, 0);
        self.reset_cmb();
        (self.running, self.fatal, self.bus_master) = (false, false, false);
        while self.inbox.take().is_some() {}
        let fresh = new_controller(self.binding.cntlid, self.config.port, &self.inbox);
        self.binding.shared = Arc::clone(&fresh.shared);
        self.subsystem.lock().controllers.insert(self.binding.cntlid, fresh);
    }

    /// Goes through a reset of the subsystem that has taken place.
    pub(super) fn follow_subsystem(&mut self) {
        let resets = self.subsystem.resets.load(Ordering::Acquire);
        if self.subsystem_resets != resets {
            self.subsystem_resets = resets;
            self.initialise();
            self.nssro = true;
        }
    }

    pub fn reset(&mut self) -> bool {
        if self.plugged {
            self.stats.resets += 1;
            // A function level reset clears Bus Master Enable; the backend restores it.
            self.initialise();
        }
        self.plugged
    }

    pub fn set_bus_master(&mut self, on: bool) -> bool {
        self.bus_master = on && self.plugged;
        self.plugged
    }

    pub fn unplug(&mut self) {
        self.initialise();
        self.plugged = false;
    }

    pub fn plug(&mut self) {
        if !self.plugged {
            self.initialise();
            self.buffer_before = None;
            self.plugged = true;
        }
    }
}
