//! A terminal on which a test types.

use nix::fcntl::OFlag;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex, PoisonError};

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

impl Terminal {
    /// Gives it a size; programs that run on it are told.
    pub fn resize(&self, columns: u16, rows: u16) {
        let size =
            rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&self.far, size).expect("set its size");
    }

    /// How it treats what is typed and printed.
    pub fn modes(&self) -> String {
        let modes = rustix::termios::tcgetattr(&self.far).expect("its modes");
        format!("{modes:?}")
    }

    /// Reads all that is printed on it from now on. It does not hang up any more as long as that lives.
    pub fn record(&self) -> Recording {
        let near = self.near.as_fd().try_clone_to_owned().expect("a descriptor");
        let printed = Arc::new(Mutex::new(Vec::new()));
        let (mut near, kept) = (File::from(near), Arc::clone(&printed));
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = near.read(&mut piece) {
                kept.lock().unwrap_or_else(PoisonError::into_inner).extend(&piece[..length]);
            }
        });
        Recording(printed)
    }
}

/// What was printed on a terminal.
pub struct Recording(Arc<Mutex<Vec<u8>>>);

impl Recording {
    /// All of it, with what steers the terminal.
    pub fn text(&self) -> String {
        let printed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&printed).into_owned()
    }

    /// What a terminal without an end would show of it.
    pub fn screen(&self) -> Vec<String> {
        screen(&self.text())
    }
}

/// The lines that are to be seen after a text was printed: of what steers a terminal, the beginning of
/// a line, the next line, and the erasing of what stands behind are understood.
#[track_caller]
pub fn screen(text: &str) -> Vec<String> {
    let mut lines = vec![Vec::new()];
    let (mut row, mut column) = (0, 0);
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        match character {
            '\r' => column = 0,
            '\n' => {
                row += 1;
                if row == lines.len() {
                    lines.push(Vec::new());
                }
            }
            '\x1b' => {
                let sequence: String = rest.by_ref().take(2).collect();
                // Not all of it was printed yet.
                if sequence.len() < 2 {
                    break;
                }
                assert_eq!(sequence, "[K", "what else steers the terminal in {text:?}");
                lines[row].truncate(column);
            }
            _ => {
                let line: &mut Vec<char> = &mut lines[row];
                line.resize(line.len().max(column + 1), ' ');
                line[column] = character;
                column += 1;
            }
        }
    }
    lines.into_iter().map(|line| line.into_iter().collect()).collect()
}
