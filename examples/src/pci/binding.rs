//! Giving a function from one driver to another, and back.
//!
//! The kernel's own way: `driver_override` says which driver alone may have the function, `unbind`
//! takes it from the one that has it, `drivers_probe` has the bus look for one again. What was before
//! is noted in `/run/nvme-host`, which lasts as long as the kernel does.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::tree::link_name;
use super::{Function, PciError, Tree};

/// Where notes are.
const NOTES: &str = "/run/nvme-host";

/// How a function was before it was given away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Note {
    pub driver: Option<String>,
    pub driver_override: Option<String>,
}

/// What [`Tree::restore`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Restored {
    /// The driver that has the function now.
    pub driver: Option<String>,
    /// Whether that was noted; otherwise the kernel chose.
    pub noted: bool,
}

impl Tree {
    /// Whether everything allows the function to be given to `driver`, or back to its former driver
    /// if that is `None`.
    ///
    /// # Errors
    /// [`PciError::InUse`], [`PciError::NoDriver`].
    pub fn check(&self, function: &Function, driver: Option<&str>) -> Result<(), PciError> {
        let address = function.address.clone();
        if let Some(driver) = driver
            && !self.path("/sys/bus/pci/drivers").join(driver).exists()
        {
            return Err(PciError::NoDriver { address, driver: driver.into() });
        }
        let uses = function.uses();
        if uses.is_empty() { Ok(()) } else { Err(PciError::InUse { address, uses }) }
    }

    /// Gives a function to `driver`, and notes what it had before. If the driver does not take it,
    /// everything is put back.
    ///
    /// # Errors
    /// Those of [`Tree::check`], [`PciError::Refused`], [`PciError::Io`].
    pub fn bind(&self, address: &str, driver: &str) -> Result<(), PciError> {
        // Looked at again: between a question and its answer much can happen.
        let function = self.function(address)?;
        if function.driver.as_deref() == Some(driver) {
            return Ok(());
        }
        self.check(&function, Some(driver))?;
        let before = Note {
            driver: function.driver.clone(),
            driver_override: function.driver_override.clone(),
        };
        // Given from one driver for programs to another, it still belongs to the first of all.
        let first = function.noted.is_none();
        if first {
            self.write_note(address, &before)?;
        }
        let Err(error) = self.hand_over(&function, Some(driver), driver) else { return Ok(()) };
        let refused = PciError::Refused {
            address: address.into(),
            driver: driver.into(),
            reason: self.why(&function, driver, &error),
        };
        let now = self.function(address)?;
        let back = before.driver.as_deref().unwrap_or_default();
        let _ = self.hand_over(&now, before.driver_override.as_deref(), back);
        let now = self.function(address)?;
        if first && (now.driver, now.driver_override) == (before.driver, before.driver_override) {
            self.forget(address);
        }
        match error {
            // Nothing has been done yet: the attribute could not be written at all.
            PciError::Io { ref source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Err(error)
            }
            _ => Err(refused),
        }
    }

    /// Gives a function back to the driver that it had before [`Tree::bind`]; to the one that the
    /// kernel chooses, if nothing is noted.
    ///
    /// # Errors
    /// As [`Tree::bind`].
    pub fn restore(&self, address: &str) -> Result<Restored, PciError> {
        let function = self.function(address)?;
        let note = self.note(address);
        let noted = note.is_some();
        let Some(Note { driver, driver_override }) = note else {
            self.check(&function, None)?;
            self.set_override(&function, None)?;
            self.unbind(&function)?;
            // Whatever comes of it is the kernel's choice, even nothing.
            let _ = self.probe(&function);
            return Ok(Restored { driver: self.driver(address), noted });
        };
        if function.driver != driver || function.driver_override != driver_override {
            self.check(&function, driver.as_deref())?;
            let wanted = driver.as_deref().unwrap_or_default();
            self.hand_over(&function, driver_override.as_deref(), wanted)?;
        }
        self.forget(address);
        Ok(Restored { driver, noted })
    }

    /// Takes the function from its driver and has `driver` take it, which must be the one that the
    /// kernel chooses with this `driver_override`; nobody, if that is empty.
    fn hand_over(
        &self,
        function: &Function,
        driver_override: Option<&str>,
        driver: &str,
    ) -> Result<(), PciError> {
        self.set_override(function, driver_override)?;
        if function.driver.as_deref() != Some(driver) {
            self.unbind(function)?;
            if !driver.is_empty() {
                self.probe(function)?;
            }
        }
        let now = self.driver(&function.address);
        if now.as_deref().unwrap_or_default() == driver {
            return Ok(());
        }
        let has = now.map_or("no driver has it".into(), |d| format!("{d} has it"));
        let (address, reason) = (function.address.clone(), format!("now {has}"));
        Err(PciError::Refused { address, driver: driver.into(), reason })
    }

    fn set_override(&self, function: &Function, driver: Option<&str>) -> Result<(), PciError> {
        let path = self.directory(&function.address).join("driver_override");
        // A newline alone takes the choice away.
        let value = format!("{}\n", driver.unwrap_or_default());
        self.attributes.write(&path, &value).map_err(PciError::io("writing", &path))
    }

    fn unbind(&self, function: &Function) -> Result<(), PciError> {
        let path = self.directory(&function.address).join("driver/unbind");
        match self.attributes.write(&path, &function.address) {
            // No driver has it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.map_err(PciError::io("taking the function away", &path)),
        }
    }

    fn probe(&self, function: &Function) -> Result<(), PciError> {
        let path = self.path("/sys/bus/pci/drivers_probe");
        self.attributes.write(&path, &function.address).map_err(PciError::io("writing", &path))
    }

    fn driver(&self, address: &str) -> Option<String> {
        link_name(&self.directory(address).join("driver"))
    }

    /// What may be the matter.
    fn why(&self, function: &Function, driver: &str, error: &PciError) -> String {
        let no_iommu = self.path("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode");
        if driver == "vfio-pci" && function.group.is_none() {
            let mode = match super::tree::text(&no_iommu).as_str() {
                "Y" | "1" => "is on",
                _ => "is off",
            };
            return format!("{error}; it has no IOMMU group, and VFIO's no-IOMMU mode {mode}");
        }
        match error {
            PciError::Refused { reason, .. } => reason.clone(),
            other => other.to_string(),
        }
    }

    fn note_path(&self, address: &str) -> PathBuf {
        self.path(NOTES).join(address)
    }

    /// What is noted about a function.
    pub(super) fn note(&self, address: &str) -> Option<Note> {
        let text = fs::read_to_string(self.note_path(address)).ok()?;
        let line = |key: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(key))?;
            Some(value.trim().to_owned()).filter(|v| !v.is_empty())
        };
        Some(Note { driver: line("driver="), driver_override: line("driver_override=") })
    }

    fn write_note(&self, address: &str, note: &Note) -> Result<(), PciError> {
        let path = self.note_path(address);
        let driver = note.driver.as_deref().unwrap_or_default();
        let chosen = note.driver_override.as_deref().unwrap_or_default();
        fs::create_dir_all(self.path(NOTES))
            .and_then(|()| fs::write(&path, format!("driver={driver}\ndriver_override={chosen}\n")))
            .map_err(PciError::io("noting the driver", &path))
    }

    fn forget(&self, address: &str) {
        // A note that stays says what is the case.
        let _ = fs::remove_file(self.note_path(address));
    }
}
