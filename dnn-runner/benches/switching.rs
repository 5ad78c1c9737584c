//! What a switch costs, and what all sub-networks take: the 13 of Dynamic-OFA on one packed weight set.

mod rows;

use dnn_runner::bench::bench;
use dnn_runner::engine::exec::Arena;
use dnn_runner::engine::export::onnx;
use dnn_runner::engine::onnx::{available, session};
use dnn_runner::engine::plan::Plan;
use dnn_runner::family;
use dnn_runner::manifest::Manifest;
use dnn_runner::model::Supernet;
use rows::{median, print, row};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

const UNSEEN: usize = 200;
/// Each with two inferences; about thirteen for each pair of the thirteen.
const SWITCHES: u32 = 2000;

/// Anonymous resident memory of this process, MiB.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let kib = status.lines().find_map(|l| l.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
    kib.and_then(|k| k.trim().parse::<f64>().ok()).expect("RssAnon") / 1024.0
}

#[expect(clippy::cast_precision_loss, reason = "below 2^53")]
fn mib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn main() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/dynamic-ofa.toml");
    let (manifest, _) = Manifest::read(&path).expect("a good manifest");
    let before = resident();
    let net = Arc::new(Supernet::load(&path).expect("a good network"));
    let elastic = net.engine().elastic().expect("an elastic network");
    let arena = Arena::new(elastic.plans());
    let own = resident() - before;
    let n = manifest.subnets.len();
    // The super-network's numbers, unpacked: every slot once, without the derived kernels.
    let slots = family::slots(&manifest);
    let numbers: usize = slots.iter().map(|s| s.kind.weights()).sum();
    let raw = mib(numbers * 4);
    let packed = mib(net.engine().bytes().expect("known"));
    let mut all = vec![
        row("super-network's weights, unpacked", raw, "MiB", 1, None),
        row(&format!("packed weights and {n} plans"), packed, "MiB", 1, None),
        row("packed weights and plans / weights", packed / raw, "", 1, Some(1.10)),
        row("arena", mib(arena.bytes()), "MiB", 1, None),
        row(&format!("resident growth: {n} sub-networks, ours"), own, "MiB", 1, None),
    ];
    // Unseen sub-networks: random depths, kernels, expansions and resolutions.
    let mut rng = fastrand::Rng::with_seed(1);
    let mut times = Vec::new();
    for _ in 0..UNSEEN {
        let mut subnet = manifest.subnets[0].clone();
        let mut pick = |from: &[usize]| from[rng.usize(..from.len())];
        subnet.depths = (0..5).map(|_| pick(&[2, 3, 4])).collect();
        subnet.kernels = (0..20).map(|_| pick(&[3, 5, 7])).collect();
        subnet.expands = (0..20).map(|_| pick(&[3, 4, 6])).collect();
        subnet.resolution = Some(4 * pick(&(44..=56).collect::<Vec<_>>()));
        let began = Instant::now();
        let graph = family::graph(&manifest, &subnet).expect("a legal sub-network");
        std::hint::black_box(Plan::new(&graph, elastic.store()).expect("it fits"));
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    all.push(median("an unseen sub-network ready", &times, "ms", Some(1.0)));
    let figures = bench(&net, 1, 1, SWITCHES, true).expect("a measurement").switch;
    #[expect(clippy::cast_precision_loss, reason = "ns of a switch")]
    for (what, ns, goal) in [
        ("switch between any two of them, p50", figures.switch_ns_p50 as f64, None),
        ("switch between any two of them, p99", figures.switch_ns_p99 as f64, Some(10_000.0)),
        ("first image on the new one, extra, p50", figures.first_image_extra_ns_p50 as f64, None),
    ] {
        all.push(row(what, ns, "ns", figures.n as usize, goal));
    }
    if let Err(why) = available() {
        eprintln!("no comparison of memory: {why}");
    } else {
        let dir = tempfile::tempdir().expect("a folder");
        let graphs = manifest.graphs().expect("good graphs");
        let before = resident();
        let mut sessions = Vec::new();
        let mut built = Vec::new();
        for (i, graph) in graphs.iter().enumerate() {
            let file = dir.path().join(format!("{i}.onnx"));
            std::fs::write(&file, onnx(graph, elastic.store())).expect("room for the file");
            let began = Instant::now();
            sessions.push(session(&file, 1, false).expect("a session"));
            built.push(began.elapsed().as_secs_f64() * 1e3);
        }
        let theirs = resident() - before;
        all.push(row(&format!("resident growth: {n} ONNX Runtime sessions"), theirs, "MiB", 1, None));
        all.push(median("an ONNX Runtime session ready", &built, "ms", None));
    }
    print(&all);
}
