//! What it was measured on, by its kind.

use crate::suite::Plan;
use std::fs;
use std::path::Path;

/// The load of the last minute.
pub fn load() -> String {
    let load = read("/proc/loadavg");
    load.split(' ').next().unwrap_or("unknown").to_string()
}

/// The machine, and how often what was measured; with the load as it was before.
pub fn conditions(plan: &Plan, before: &str) -> String {
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let virtual_machine = read("/proc/cpuinfo").contains(" hypervisor");
    let kind = if virtual_machine { "virtual machine" } else { "machine" };
    let memory = read("/proc/meminfo");
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let memory = memory.and_then(|kib| kib.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    let release = read("/proc/sys/kernel/osrelease");
    let release: Vec<&str> = release.trim().split(['.', '-']).take(2).collect();
    format!(
        "{processors}-core {kind}, {:.0} GiB of memory, Linux {}; memory is {}, the disk {}. Rounds of \
         each contest: {}. Load of the machine before: {before}, after: {}.",
        memory.unwrap_or(f64::NAN) / f64::from(1 << 20),
        release.join("."),
        file_system(&plan.memory),
        file_system(&plan.disk),
        plan.rounds,
        load(),
    )
}

fn file_system(folder: &Path) -> &'static str {
    // Magic numbers of statfs(2).
    match rustix::fs::statfs(folder).map(|stat| stat.f_type as u64 & 0xffff_ffff) {
        Ok(0x0102_1994) => "tmpfs",
        Ok(0xef53) => "ext4",
        Ok(0x5846_5342) => "XFS",
        Ok(0x9123_683e) => "Btrfs",
        Ok(0x794c_7630) => "overlayfs",
        _ => "another file system",
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
