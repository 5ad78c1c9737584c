//! `docs/evidence.md` from the figures, with a paragraph each on how they were taken.

use crate::{Row, folder};
use anyhow::Context as _;
use std::fmt::Write as _;

/// Name, command's method.
const METHODS: [(&str, &str); 23] = [
    (
        "demo",
        "One run of `tandem demo` on this machine: agent, runner on the 10,000 test images, a co-runner with one busy \
        thread per CPU. The domain is the CPU-bandwidth stand-in (this machine's clock cannot be set), so there is no \
        energy column. Violations are frames over the target or dropped; the first second of each phase is left out alike. \
        Accuracy is on the test split; the network's hyper-parameters were chosen on the validation split, but one earlier \
        training was measured on the test split before the last two were run.",
    ),
    (
        "tick",
        "The governor's own step in a loop without a pause: real eBPF maps, the Wasm `tandem-allocator` and a \
        `tandem-tuner` per application, the envelope, and the publication to runners whose ends are in the same process; \
        nothing has to be written to the kernel, as in most ticks. The CPUs are this machine's (the goal names 8: each more \
        is a slot to read and a record to hand to every guest). What binds is the component call, see `wasm-call`. In the rows \
        with a pause this process only spins in it: what a tick costs then is what the machine (its other tenants' caches, \
        nested page tables) makes of cold memory, see also `footprint`.",
    ),
    (
        "wasm-call",
        "`decide` of the same policy, called through the component and as native Rust, interleaved in rounds of 50 calls; \
        medians over rounds. The goal of a Wasm row is 1.3 times its native row plus 300 ns. What binds is not the guest's \
        arithmetic but the way in: wasmtime's entry, once for the call, once for each list that is not empty and once to free \
        an answer's lists, and the guest's own copy of every list with optional fields.",
    ),
    (
        "channel",
        "Publish in one thread, a spinning subscriber in another, pinned to different CPUs; beside it in the same run, \
        interleaved, a round trip of the same bytes over a Unix datagram socket, as the PRiME framework uses. Compare round \
        trips with round trips: the first two rows are one way.",
    ),
    (
        "bpf-cost",
        "The kernel's own `bpf_stats` (run time / run count) while two processes play ping-pong over a pipe: our programs, \
        empty programs on the same hooks, and bpftrace's `runqlat.bt`, in one run, interleaved; per context switch.",
    ),
    (
        "switch",
        "`dnn-runner bench`: from a decision in memory with another sub-network to the engine being ready to run it. Beside \
        it the frame times of the small engine: the naive reference, the portable kernel, AVX2.",
    ),
    (
        "engine",
        "`cargo bench -p dnn-runner --bench engine`: a sub-network in the elastic engine and, exported with batch-norm folded, in \
        ONNX Runtime 1.32 (the PyPI wheel's library, all optimisations; on two threads the faster of spinning and sleeping), in \
        turns of one inference that is not counted and three (below 1 ms thirty) that are; medians of 40 turns, ratios turn by \
        turn. The AVX2 rows force both: ours by choosing the form, ONNX Runtime, which has no switch for it, by a copy of its \
        library whose one look at AVX-512 is skipped (`tests/evidence/onnxruntime_avx2.py`). Goals: 1.15 with AVX-512, 1.3 with \
        AVX2. Dynamic-OFA's weights are random.",
    ),
    (
        "switching",
        "`cargo bench -p dnn-runner --bench switching`: the 13 published sub-networks of Dynamic-OFA on one packed weight set. An \
        unseen sub-network has random depths, kernels, expansions and resolution; ready means that its plan is made. Resident \
        growth is the process's anonymous memory before and after, arena included.",
    ),
    (
        "accuracy",
        "`dnn-runner measure` on the 10,000 images of the test split. Whatever was tuned or chosen was so on images of the \
        training split; the split was looked at for these figures alone, but for mlcad-fmnist (see `demo`).",
    ),
    (
        "profile",
        "`tandem profile` on this machine: Dynamic-OFA at the top OPP, the committed network at every OPP (where no clock \
        can be set the OPPs are the CPU-bandwidth stand-in's, whose low ones let a short frame through in one burst). 10 to 30 \
        frames or more a row. The predictor sums the median times of layers with the same sizes in the other sub-networks, one \
        thread; a layer that no other has counts as known.",
    ),
    (
        "range",
        "The slowest over the fastest operating point among those that keep at least 85 % top-1 on the whole test split, by \
        medians of `tandem profile`: the sub-networks at the top OPP, the OPPs on the largest sub-network, all pairs. The \
        stand-in bounds the average of 10 ms, so its frames are as many images as the largest takes about 25 ms for; \
        the VM's clock really sets the speed (TCG: an emulated CPU, so the network's own range is that of an emulated one).",
    ),
    (
        "footprint",
        "The real agent at a 10 ms tick with one runner at 20 frames a second: CPU time by /proc/PID/task/*/schedstat in \
        windows of 2 s, resident memory by /proc/PID/status, the steps by the agent's own book. The steps are means and \
        cold: between two ticks the runner's frames have had the caches, so `decide` costs many times its figure under \
        `tick`. What else binds, we think, is waking up a hundred times a second (timer, poll, the policies' deadline).",
    ),
    (
        "vm",
        "The thesis-like scenarios (`tests/scenarios/thesis-*-vm.toml`, with the reasons for each choice) in the VM, board \
        `odroid-xu3`: our manager (energy first, one setting, a profile measured in the guest, the board's powers) in turns \
        with the kernel's schedutil (frequency-invariant) and each fixed sub-network at or above the floor, five rounds of 20 s \
        in one boot. Energy is the host's model of the domains (OPP, busy share, 8 % idle); differences are of the runs of one \
        round. Right answers are on the images of the run. A run with the limiter late for 1 % or a stall of 20 ms is void.",
    ),
    (
        "vm-grid",
        "Cells of the grid in the VM, board `odroid-xu3`, one application (mlcad-fmnist) at each of its four accuracy floors: a \
        frame is whole images, so the loads are 60 % (30 Hz), 80 % (20 Hz, two images) and, beside a co-runner that keeps the application's CPU busy, 40 % (20 Hz) \
        of the clock. \
        Our manager, energy first and latency first, in turns with the kernel's schedutil (frequency-invariant) and each fixed \
        sub-network, one run of 20 s each; two boots, because what latency-first may spend is what the comparator of the first \
        boot drew on the domain where the application begins. The comparator is the cheapest fixed network at or above the floor \
        that meets the target (at most 5 % late or lost), of equals the smallest; where none does, the cell is left out and counted. Energy is the host's \
        model (OPP, busy share, 8 % idle). `fair`: no more late than the comparator, p95 within the target, mean accuracy of the \
        sub-networks within 0.2 points of it or above. Won: fair, and 3 % less energy, less also with idle shares 0.02 and 0.3 and with the \
        little domain's power x1.4; for latency-first a p95 3 % lower at no more energy, then too. Within 3 % is equal: so far energies of the kernel's rows lie apart from boot to boot (p95 by more in a row where \
        schedutil wavers between two OPPs; the table says by how much). \
        What binds latency-first: with one stream schedutil settles at one OPP, which is the fastest that the budget it sets \
        pays for; only another domain does better, so most cells are the comparator's own point.",
    ),
    (
        "vm-board",
        "Whether speed follows the clock in the VM (tests/vm, QEMU with TCG, board `odroid-xu3`): an integer loop, an AVX2 FMA \
        loop and an inference of the committed network at the lowest, the highest and two OPPs between, the other limited \
        CPU busy with the FMA loop. The deviation is from the median speed per MHz. The limiter's lateness and the host's \
        stalls in the loops' sections are the run's quality mark: a run over 1 % or 20 ms is void and repeated, at most three times.",
    ),
    (
        "swap",
        "A hundred policy-set swaps in a row by the control socket while a runner takes 40 frames a second. Nothing lost is \
        proved by the totals in shared memory, not by the ring; a tick that began more than one period late is missed.",
    ),
    (
        "governors",
        "Twelve loads (idle-busy steps; 10, 30 and 60 Hz frames at 15, 35 and 60 % of the top OPP; two tasks; a ramp) on one CPU \
        of 200 to 2000 MHz, under the kernel's governors in the VM (`time_in_state` over 5 s, after a second) and under the \
        simulator's. A figure is the largest difference at one OPP, in points of 100. `schedutil` is frequency-invariant \
        by the module `tests/vm/freqinv.c`, as on arm64; the other is as x86 without APERF/MPERF runs it. Every load begins \
        under `performance`, its first release 0.3 ms after a tick. The kernel runs twice, the model eight times with wake-ups up to 0.5 ms late; \
        the means are compared, and how far runs of one kind lie apart is in the row. Reasons for the differences, from traces of \
        the guest (`sched_switch`, `cpu_frequency`, timer, softirq): (1) Where a CPU idles long (steps, 10 Hz), another CPU's idle balancing decays its \
        averages 24 to 56 ms after it went idle, at no fixed time, and schedutil then lowers a clock that nobody uses; after a pause of \
        a second a housekeeping thread does the same for ondemand and conservative. The model looks at a CPU only when a task \
        comes, goes or is running. Without invariance the target is a multiple of the present clock, so that a frame which begins at what \
        idleness left (traced: 200 MHz) climbs OPP by OPP to 2000 MHz and falls again, a cycle that lasts, where the model \
        rests at a fixed point (10 Hz at 15 and 35 %, 60 Hz at 35 %; in the ramp and at 30 Hz, 35 % in part). (2) 60 Hz at 60 %: the target lies on the edge between 1600 and 1800 MHz and the guest is at each for part of every \
        frame. (3) ondemand and conservative sample from a worker thread on the CPU they sample: in one wake-up of 5 to 16 \
        it ran after the frame's first milliseconds, not before, and the shorter window reads another load. The model samples \
        at once. Two things make that large: ondemand takes the last load over after 16 ms of idleness, so that at 30 Hz, 35 % a cycle \
        through 400 MHz and one that stays at 2000 MHz both last (the guest is in either, its two runs 51 points apart; the model in the first); \
        conservative moves only outside 20 to 80 %, so that each rare short window is a step for good (60 Hz at 15 and 35 %: \
        1000 to 1400 and 2000 MHz are as stable as what the guest slid to). Simulated ondemand and conservative therefore stand for \
        one of several courses, and are no opponents to claim a win against; those are run in the VM.",
    ),
    (
        "thermal",
        "All CPUs of `vm-baseline` busy for 40 s under a policy that asks for the top OPP: the kernel's step_wise governor in the \
        VM (ACPI passive trip at 75 C, a look every second, steps of 20 % of the clock), with the agent in the loop, and \
        the simulator's (a look every 100 ms, steps of an OPP). The heat is one RC node of the same constants in both. \
        `docs/thermal.png` shows both.",
    ),
    (
        "sim",
        "`make eval`'s run: `tandem eval` over `tests/grid.toml` and seven named scenarios on all simulated boards, 5 seeds; \
        every figure is modelled. A cell's comparator is invariant schedutil (on a GPU simple_ondemand) with the cheapest fixed \
        sub-networks, of all tried, that hold the accuracy floor and meet the target; cells in which none does are apart. Fair: no more \
        violations than the comparator, p95 within the target, accuracy within 0.2 points of its or above, each application by \
        itself. Won: fair, and less energy (lower p95, higher accuracy), whatever the idle share (0.02, 0.08, 0.3) and with the little \
        domain's power x1.4. The lower bound is the least energy of constant operating points between two events, free \
        switching between them. The cost of a call is by this machine's clock, natively, in the simulator. What binds, energy first: \
        where it has not won, it mostly runs the comparator's own point, or the win hangs on one of those assumptions, or the cheapest \
        fixed networks happen to be more accurate than the floor asks (a larger one can cost less under schedutil or simple_ondemand), and \
        ours are not. It loses where schedutil meets a deadline by 1 % (we plan to 93 % of it), and on the Jetsons' GPUs where a governor \
        that falls between frames beats every constant OPP. Far above the bound it is where the next OPP would be 93 to 98 % busy, which \
        it does not dare. Latency first: at the power of a comparator that stands at one OPP, that point is the best there is.",
    ),
    (
        "ablation",
        "The same run: our manager without one of its parts. Network only: the kernel's schedutil has the clocks. Clock only: \
        the largest network. Without learning: it believes the profile to the end. Without upper level: every application has all of \
        its home domain.",
    ),
    (
        "timeline",
        "Dynamic-OFA's Fig. 7 in the simulator (tests/scenarios/paper-timeline.toml says what was chosen and why): 60 ms, a \
        second GPU job from 2.5 s on. The board's powers and latencies are measured (LoudVA, InceptionV3 on a Jetson Xavier NX), \
        the second job and all else is modelled. Below: each frame under our manager beside the levels read off the published \
        figure, whose own rule kept the top clock.",
    ),
    (
        "sim-speed",
        "Simulated two minutes (12,000 ticks of 10 ms) of four streams on a board of four domains, run to run in turn: the \
        machine from event to event, the snapshot, `tandem-allocator` and four `tandem-tuner`s through Wasm or natively, the \
        envelope, the transaction. Start-up (compiling excepted) is in the time. One core.",
    ),
    (
        "sim-fit",
        "How far the models' curves lie from the measured rows they were made from, and from rows left out (each half of the \
        rows predicted by the other half). Latency: `a + b/f`; power: `p0 + p1 f + p3 f^3` (only for the board's constant: \
        the simulator takes power from the rows). One run per row upstream, so the rows' own spread is not known.",
    ),
];

/// Pictures of the demo that the README shows.
const PICTURES: [(&str, &str); 2] = [("timeline.png", "demo.png"), ("terminal.png", "terminal.png")];

/// Writes it, and takes the demo's pictures along.
pub fn write() -> anyhow::Result<()> {
    let root = tandem_tests::repository();
    for (from, to) in PICTURES {
        let from = root.join("target/demo").join(from);
        if from.exists() {
            std::fs::copy(&from, root.join("docs").join(to)).with_context(|| from.display().to_string())?;
        }
    }
    let mut text = String::from(
        "# Evidence\n\nEvery figure we claim, with the command that reproduces it. Generated by `make docs-evidence` from the \
         files that `make evidence-NAME` writes; `make evidence` measures all. Medians unless the row says otherwise; p10 and \
         p90 of the samples where there are samples. These machines are shared and noisy: ratios were taken side by side in \
         one run.\n",
    );
    for (name, method) in METHODS {
        let path = folder().join(format!("{name}.json"));
        let Ok(json) = std::fs::read(&path) else {
            writeln!(text, "\n## {name}\n\n`make evidence-{name}`: not measured yet.\n\n{method}")?;
            continue;
        };
        let rows: Vec<Row> = serde_json::from_slice(&json).with_context(|| path.display().to_string())?;
        let first = rows.first().context("an empty list")?;
        let (machine, commit) = (&first.machine, &first.commit);
        writeln!(text, "\n## {name}\n\n`make evidence-{name}` on {machine}, commit {commit}.\n\n{method}\n")?;
        if name == "accuracy" {
            for plot in accuracy_plots(&root)? {
                writeln!(text, "![top-1 against multiply-accumulates]({plot})\n")?;
            }
        }
        if name == "timeline" {
            text += "![latency, accuracy and clock over time](timeline.png)\n\n";
        }
        text += "| figure | value | unit | n | p10 | p90 | kind | goal |\n|---|---:|---|---:|---:|---:|---|---:|\n";
        for r in &rows {
            let or = |v: Option<f64>| v.map_or_else(String::new, short);
            let goal = r.goal.map_or_else(String::new, |g| {
                let met = if r.better == "higher" { r.value >= g } else { r.value <= g };
                format!("{} ({})", short(g), if met { "met" } else { "not met" })
            });
            writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {goal} |",
                r.name,
                short(r.value),
                r.unit,
                r.n,
                or(r.p10),
                or(r.p90),
                r.kind
            )?;
        }
    }
    let path = root.join("docs/evidence.md");
    std::fs::write(&path, text)?;
    println!("written: {}", path.display());
    Ok(())
}

/// The pictures that `evidence accuracy` left, by name.
fn accuracy_plots(root: &std::path::Path) -> anyhow::Result<Vec<String>> {
    let names =
        std::fs::read_dir(root.join("docs"))?.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    let mut plots: Vec<String> =
        names.filter(|n| n.starts_with("accuracy-") && n.ends_with(".png")).collect();
    plots.sort();
    Ok(plots)
}

/// Three significant digits or so.
fn short(v: f64) -> String {
    let digits = if v == 0.0 || v.abs() >= 100.0 {
        0
    } else if v.abs() >= 10.0 {
        1
    } else if v.abs() >= 1.0 {
        2
    } else {
        3
    };
    format!("{v:.digits$}")
}
