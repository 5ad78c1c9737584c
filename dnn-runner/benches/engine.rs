//! The elastic engine beside ONNX Runtime: the same sub-network, the same image, interleaved turns.
//!
//! Each turn runs one inference that is not counted and three (of short ones thirty) that are; the figure of a pair is the ratio
//! of the turns' medians, and what is reported is the median of the pairs. ONNX Runtime is given each
//! sub-network as a file of its own with batch-norm folded, all optimisations, and on two threads the
//! better of spinning and sleeping threads. It has no switch for its vector width: `--form avx2` sets ours
//! alone, and wants a library that sees no more in `ORT_DYLIB_PATH` (tests/evidence/onnxruntime_avx2.py).

mod rows;

use dnn_runner::engine::exec::{Arena, Crew};
use dnn_runner::engine::export::onnx;
use dnn_runner::engine::graph::Graph;
use dnn_runner::engine::onnx::{available, session};
use dnn_runner::engine::plan::Plan;
use dnn_runner::engine::pool::Pool;
use dnn_runner::engine::store::Store;
use dnn_runner::kernel::Kernel;
use dnn_runner::manifest::Manifest;
use dnn_runner::model::Supernet;
use ort::session::Session;
use ort::value::TensorRef;
use rows::{median, print, quantile, row};
use serde_json::Value;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

/// Pairs; with `--quick` a quarter.
const TURNS: usize = 40;
/// Inferences of a turn that count: of long ones, and of those below `SHORT_MS`.
const COUNTED: (usize, usize) = (3, 30);
const SHORT_MS: f64 = 1.0;
/// Before each turn: ONNX Runtime's threads, where they spin, look a million times after an inference, some
/// 20 ms, and would take a core from whoever comes next.
const REST: Duration = Duration::from_millis(50);
/// The bounds, ours / theirs, by our form of the arithmetic.
const BOUNDS: [(&str, f64); 2] = [("avx512", 1.15), ("avx2", 1.3)];
/// Sub-networks compared: manifest, names (none: the largest).
const CASES: [(&str, &[&str]); 5] = [
    ("dynamic-ofa", &["nets_6/0", "nets_6/3", "nets_6/5"]),
    ("efficientnet-lite", &["lite2"]),
    ("mlcad-fmnist", &[]),
    ("mlcad-fmnist-large", &[]),
    ("slimmable-fmnist", &[]),
];

fn main() {
    if let Err(why) = available() {
        eprintln!("skipped: needs ONNX Runtime: {why}");
        std::process::exit(1);
    }
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let mut all = Vec::new();
    for (model, names) in CASES {
        let path = models.join(format!("{model}.toml"));
        let weights = path.with_extension("safetensors");
        if !path.exists() || (model != "dynamic-ofa" && !weights.exists()) {
            eprintln!("{model}: no manifest or no weights (`make models` fetches some)");
            continue;
        }
        let (manifest, _) = Manifest::read(&path).expect("a good manifest");
        let graphs = manifest.graphs().expect("good graphs");
        let net = Supernet::load(&path).expect("a good network");
        let elastic = net.engine().elastic().expect("an elastic network");
        let last = manifest.subnets.len() - 1;
        let subnets: Vec<usize> = match names {
            [] => vec![last],
            names => names.iter().map(|n| net.subnet(n).expect("a sub-network")).collect(),
        };
        for subnet in subnets {
            let name = format!("{model} {}", manifest.subnets[subnet].name);
            all.extend(compare(&name, &graphs[subnet], elastic.store(), &elastic.plans()[subnet]));
        }
    }
    print(&all);
}

/// The form of ours that is compared: `--form NAME`, else the best here.
fn form() -> Kernel {
    let named = std::env::args().skip_while(|a| a != "--form").nth(1);
    named.map_or_else(Kernel::best, |name| Kernel::named(&name).expect("a form that this CPU has"))
}

fn turns() -> usize {
    if std::env::args().any(|a| a == "--quick") { TURNS / 4 } else { TURNS }
}

/// Ours on one sub-network.
struct Own<'a> {
    plan: &'a Plan,
    arena: Arena,
    kernel: Kernel,
    pool: Pool,
    threads: usize,
}

impl<'a> Own<'a> {
    fn new(plan: &'a Plan, kernel: Kernel, threads: usize) -> Self {
        let pool = Pool::new(threads).expect("threads");
        Self { plan, arena: Arena::new([plan]), kernel, pool, threads }
    }

    /// `image` with a pixel's channels together.
    fn infer(&mut self, image: &[f32]) -> &[f32] {
        let row = self.plan.image().width * self.plan.image().channels;
        self.plan.lay_image(&mut self.arena, |y, to| to.copy_from_slice(&image[y * row..][..row]));
        self.pool.begin(self.threads);
        let mut crew = if self.threads > 1 { Crew::Of(&mut self.pool, self.threads) } else { Crew::Alone };
        let go_on = |_| ControlFlow::Continue(());
        let _ = self.plan.run(0..self.plan.layers(), &mut self.arena, self.kernel, &mut crew, go_on);
        self.pool.end();
        self.plan.logits(&self.arena)
    }
}

fn theirs(session: &mut Session, shape: [i64; 4], image: &[f32]) -> Vec<f32> {
    let tensor = TensorRef::from_array_view((shape, image)).expect("a tensor");
    let outputs = session.run(ort::inputs![tensor]).expect("an inference");
    outputs[0].try_extract_tensor::<f32>().expect("logits").1.to_vec()
}

/// Median of the counted inferences of a turn, ms.
fn turn(mut infer: impl FnMut()) -> f64 {
    std::thread::sleep(REST);
    let mut timed = || {
        let began = Instant::now();
        infer();
        began.elapsed().as_secs_f64() * 1e3
    };
    let counted = if timed() < SHORT_MS { COUNTED.1 } else { COUNTED.0 };
    let times: Vec<f64> = (0..counted).map(|_| timed()).collect();
    quantile(&times, 0.5)
}

fn compare(name: &str, graph: &Graph, store: &Store, plan: &Plan) -> Vec<Value> {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("subnet.onnx");
    std::fs::write(&file, onnx(graph, store)).expect("room for the file");
    let shape = plan.image();
    let mut rng = fastrand::Rng::with_seed(1);
    let image: Vec<f32> = (0..shape.pixels() * shape.channels).map(|_| 4.0 * rng.f32() - 2.0).collect();
    let planes: Vec<f32> =
        (0..shape.channels).flat_map(|c| image.iter().skip(c).step_by(shape.channels).copied()).collect();
    let signed = |n: usize| i64::try_from(n).expect("small");
    let dims = [1, signed(shape.channels), signed(shape.height), signed(shape.width)];
    let mut all = Vec::new();
    let kernel = form();
    let bound = BOUNDS.iter().find(|(form, _)| *form == kernel.name()).map(|(_, bound)| *bound);
    for threads in [1, 2] {
        let spinning: &[bool] = if threads == 1 { &[false] } else { &[true, false] };
        let mut sessions: Vec<Session> =
            spinning.iter().map(|s| session(&file, threads, *s).expect("a session")).collect();
        let mut own = Own::new(plan, kernel, threads);
        if threads == 1 {
            let expected = theirs(&mut sessions[0], dims, &planes);
            let found = own.infer(&image);
            let largest = expected.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
            let off = expected.iter().zip(found).fold(0.0_f32, |m, (a, b)| m.max((a - b).abs()));
            let what = format!("{name}, {}: largest error of a logit, of the largest", kernel.name());
            all.push(row(&what, f64::from(off / largest), "", expected.len(), Some(1e-4)));
        }
        let mut ours = Vec::new();
        let mut others: Vec<Vec<f64>> = sessions.iter().map(|_| Vec::new()).collect();
        for _ in 0..turns() {
            ours.push(turn(|| {
                std::hint::black_box(own.infer(&image));
            }));
            for (session, times) in sessions.iter_mut().zip(&mut others) {
                times.push(turn(|| {
                    std::hint::black_box(theirs(session, dims, &planes));
                }));
            }
        }
        let (best, spins) = others
            .iter()
            .zip(spinning)
            .min_by(|(a, _), (b, _)| quantile(a, 0.5).total_cmp(&quantile(b, 0.5)))
            .expect("a session");
        let ratios: Vec<f64> = ours.iter().zip(best).map(|(a, b)| a / b).collect();
        let what = format!("{name}, {threads} threads, {}", kernel.name());
        let how = if *spins { " (spinning)" } else { "" };
        all.push(median(&format!("{what}: ours / ONNX Runtime{how}"), &ratios, "", bound));
        all.push(median(&format!("{what}: ours"), &ours, "ms", None));
        all.push(median(&format!("{what}: ONNX Runtime{how}"), best, "ms", None));
    }
    // A slice beside the same sub-network packed alone.
    let alone = store.own(graph);
    let alone = Plan::new(graph, &alone).expect("the same layers");
    let (mut view, mut dense) = (Own::new(plan, kernel, 1), Own::new(&alone, kernel, 1));
    let ratios: Vec<f64> = (0..turns())
        .map(|_| {
            let view = turn(|| {
                std::hint::black_box(view.infer(&image));
            });
            view / turn(|| {
                std::hint::black_box(dense.infer(&image));
            })
        })
        .collect();
    all.push(median(
        &format!("{name}, {}: slice / its own dense packing", kernel.name()),
        &ratios,
        "",
        Some(1.05),
    ));
    all
}
