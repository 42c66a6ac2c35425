//! The registers, and the enabling and disabling by CC (`NVMe 2.1 §3.1.4`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use nvme_core::spec::registers::{Aqa, Cap, Cc, Csts, NSSR_RESET, offset};

use super::config::PciFault;
use super::engine::{Engine, new_controller};
use super::rings::{CompletionQueue, SubmissionQueue};

impl Engine {
    fn cap(&self) -> u64 {
        let entries = self.subsystem.lock().limits.queue_entries;
        let mqes = self.config.mqes.unwrap_or(entries.saturating_sub(1));
        Cap(0)
            .with_mqes(mqes.into())
            .with_cqr(1)
            .with_to(self.config.ready_units.into())
            .with_dstrd(self.config.dstrd.into())
            .with_css(Cap::CSS_NVM | Cap::CSS_IOCS)
            .with_mpsmin(self.config.mpsmin.into())
            .with_mpsmax(self.config.mpsmin.into())
            .with_nssrs(self.config.subsystem_reset.into())
            .with_cmbs(self.config.cmb.is_some().into())
            .0
    }

    pub(super) fn cc_csts(&self) -> (u32, u32) {
        let state = self.subsystem.lock();
        let (cc, mut csts) =
            state.controllers.get(&self.binding.cntlid).map_or((0, 2), |c| (c.cc, c.csts));
        if self.fatal {
            csts |= Csts(0).with_cfs(1).0;
        }
        if self.nssro {
            csts |= Csts(0).with_nssro(1).0;
        }
        if !self.running && !self.fatal {
            csts &= !Csts(0).with_rdy(1).0;
        }
        (cc, csts)
    }

    /// 8 bytes of the register file.
    pub fn register(&mut self, at: usize) -> u64 {
        self.follow_subsystem();
        if !self.plugged {
            return u64::MAX;
        }
        if self.has(PciFault::Zeroes) {
            return 0;
        }
        let version = || u64::from(self.subsystem.lock().limits.version);
        match at {
            offset::CAP => self.cap(),
            offset::VS => version(),
            // CC is the upper half of one word, CSTS of the next.
            0x10 => u64::from(self.cc_csts().0) << 32,
            0x18 => u64::from(self.cc_csts().1) << 32,
            0x20 => u64::from(self.aqa) << 32,
            offset::ASQ => self.asq,
            offset::ACQ => self.acq,
            offset::CMBLOC => self.cmb_registers(),
            offset::CMBMSC => self.cmb_control(),
            offset::CMBSTS => self.cmb_status(),
            _ => 0,
        }
    }

    pub fn set_register(&mut self, at: usize, value: u32, now: Instant) {
        let half = |word: u64, high: bool| match high {
            true => word & 0xffff_ffff | u64::from(value) << 32,
            false => word & !0xffff_ffff | u64::from(value),
        };
        self.follow_subsystem();
        if !self.plugged {
            return;
        }
        match at {
            offset::NSSR if self.config.subsystem_reset && value == NSSR_RESET => {
                self.subsystem.resets.fetch_add(1, Ordering::AcqRel);
                self.follow_subsystem();
            }
            offset::CSTS if Csts(value).nssro() == 1 => self.nssro = false,
            offset::CC => self.configure(value, now),
            offset::AQA => self.aqa = value,
            offset::ASQ | 0x2c => self.asq = half(self.asq, at != offset::ASQ) & !0xfff,
            offset::ACQ | 0x34 => self.acq = half(self.acq, at != offset::ACQ) & !0xfff,
            offset::CMBMSC | 0x54 => {
                self.control_cmb(half(self.cmb_control(), at != offset::CMBMSC));
            }
            _ => {}
        }
    }

    fn configure(&mut self, value: u32, now: Instant) {
        let enable = Cc(value).en() == 1;
        if !enable && self.running && self.has(PciFault::StuckEnabled) {
            return;
        }
        let was = self.cc_csts().0;
        if Cc(value).shn() != 0 && Cc(was).shn() == 0 && self.buffer_given.is_some() {
            self.stats.host_memory_at_shutdown += 1;
        }
        if enable && Cc(was).en() == 0 {
            self.stats.enables += 1;
            self.forget_queues();
        }
        let ready = {
            let mut state = self.subsystem.lock();
            let Some(ctrl) = state.controllers.get_mut(&self.binding.cntlid) else { return };
            if enable && Cc(was).en() == 0 {
                // Whatever the last use has left behind is gone.
                let fresh = new_controller(self.binding.cntlid, self.config.port, &self.inbox);
                self.binding.shared = Arc::clone(&fresh.shared);
                *ctrl = fresh;
            }
            ctrl.configure(value, now);
            ctrl.is_enabled()
        };
        self.running = ready && !self.has(PciFault::NeverReady);
        if !ready {
            self.fatal = false;
            self.forget_queues();
        } else if Cc(was).en() == 0 {
            let aqa = Aqa(self.aqa);
            self.clear_doorbell(0, false);
            self.clear_doorbell(0, true);
            self.cqs.insert(0, CompletionQueue::new(self.acq, aqa.acqs() + 1, Some(0)));
            self.sqs.insert(0, SubmissionQueue::new(self.asq, aqa.asqs() + 1, 0));
        }
    }
}
