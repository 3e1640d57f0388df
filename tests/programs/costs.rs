//! Goes through one step of a record's way so many times, for `tests/instructions.sh` to count
//! instructions; without arguments it names the steps.
//!
//!     test_costs STEP TIMES DIRECTORY
//!
//! Empty without `--cfg costs`.

#[cfg(costs)]
fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [step, times, directory] = &arguments[..] else {
        procsig::costs::steps().for_each(|step| println!("{step}"));
        return std::process::ExitCode::SUCCESS;
    };
    // Whatever else the machine has: the checksums' instructions are what a user's machine runs.
    #[cfg(target_arch = "x86_64")]
    assert!(std::arch::is_x86_feature_detected!("sse4.2"), "this processor has no SSE 4.2");
    let times = times.parse().unwrap_or_else(|error| panic!("TIMES {times}: {error}"));
    match procsig::costs::run(step, times, directory.as_ref()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(not(costs))]
fn main() {}
