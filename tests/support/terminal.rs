//! A terminal on which a test types.

use nix::fcntl::OFlag;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

/// A pseudo-terminal; it hangs up when it is dropped.
pub struct Terminal {
    near: nix::pty::PtyMaster,
    far: File,
}

impl Terminal {
    /// Opens one that no program inherits by accident: a near end in other hands would keep it
    /// from hanging up.
    #[track_caller]
    pub fn open() -> Terminal {
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let near = nix::pty::posix_openpt(flags).expect("a pseudo-terminal");
        nix::pty::grantpt(&near).expect("grantpt");
        nix::pty::unlockpt(&near).expect("unlockpt");
        let name = nix::pty::ptsname_r(&near).expect("its name");
        let mut far = OpenOptions::new();
        far.read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits());
        let far = far.open(name).expect("its far end");
        Terminal { near, far }
    }

    /// The end for the program.
    pub fn far_end(&self) -> OwnedFd {
        self.far.try_clone().expect("a descriptor").into()
    }

    /// Types Ctrl-C: the terminal sends SIGINT to its foreground process group.
    pub fn type_ctrl_c(&mut self) {
        self.type_text("\x03");
    }

    /// Types a text; the program sees whole lines of it.
    pub fn type_text(&mut self, text: &str) {
        self.near.write_all(text.as_bytes()).expect("type on the terminal");
    }
}
