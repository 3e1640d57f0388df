//! The `procsig` command: everything it does is in the library's `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The very first act, before even the arguments are parsed: from here on a signal waits for
    // the supervisor instead of ending a half-started pipeline. Only `run` has a supervisor that
    // takes them; the other commands start nothing and may be ended by a signal at any time.
    if std::env::args_os().nth(1).is_some_and(|command| command == "run") {
        procsig::block_signals();
    }
    procsig::cli::main()
}
