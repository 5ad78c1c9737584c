//! ONNX Runtime behind the [`Engine`] trait: networks of the user's own, one file per sub-network.
//!
//! Responsible for: finding the library, a session per sub-network and thread, images in the layout that a
//! file wants. A session's threads are fixed when it is made, so every session has one, and threads share
//! the images of a frame, not the layers of one; a run stops at its end only.

use super::exec::Crew;
use super::{Engine, Worker};
use crate::image::{Images, Rows};
use crate::kernel::Kernel;
use crate::manifest::Provider;
use ort::environment::Environment;
use ort::ep::{CUDA, ExecutionProvider, ExecutionProviderDispatch, TensorRT};
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::TensorRef;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Where the library lies, if not beside the program: as ONNX Runtime's own tools call it.
pub const LIBRARY: &str = "ORT_DYLIB_PATH";
const NAME: &str = "libonnxruntime.so";

/// Files that may be the library, the best first.
fn candidates() -> Vec<PathBuf> {
    if let Some(path) = std::env::var_os(LIBRARY) {
        return vec![path.into()];
    }
    let mut all = Vec::new();
    // Installed beside the program, built beside it (`make` puts it there), or the system's.
    for folder in std::env::current_exe().iter().flat_map(|exe| exe.ancestors().skip(1).take(3)) {
        all.extend(["lib/tandem", "onnxruntime"].map(|sub| folder.join(sub).join(NAME)));
    }
    all.retain(|path| path.exists());
    all.push(NAME.into());
    all
}

/// The library, loaded once for the process.
fn environment() -> Result<&'static Environment, String> {
    static LOADED: OnceLock<Result<Environment, String>> = OnceLock::new();
    let load = || {
        let path = candidates().remove(0);
        let hint = format!(
            "{}: ONNX Runtime's library; set {LIBRARY} to where it lies (`make` puts one into target/onnxruntime)",
            path.display()
        );
        let builder = ort::init_from(&path).map_err(|e| format!("{hint}: {e}"))?;
        builder.with_name("tandem").build().map_err(|e| format!("{hint}: {e}"))
    };
    LOADED.get_or_init(load).as_ref().map_err(Clone::clone)
}

/// Whether the library is there: else why not.
pub fn available() -> Result<(), String> {
    environment().map(|_| ())
}

/// What a session is to be run by; the CPU needs no word. Refused if the library was built without it.
fn providers(wanted: Provider) -> Result<Vec<ExecutionProviderDispatch>, String> {
    environment()?;
    let (name, there, provider) = match wanted {
        Provider::Cpu => return Ok(Vec::new()),
        Provider::Cuda => ("cuda", CUDA::is_available(), CUDA::default().build()),
        Provider::Tensorrt => ("tensorrt", TensorRT::is_available(), TensorRT::default().build()),
    };
    match there {
        // A provider that is there and fails must not leave its work to the CPU in silence.
        Ok(true) => Ok(vec![provider.error_on_failure()]),
        Ok(false) => Err(format!(
            "provider {name:?}: this ONNX Runtime was built without it; set {LIBRARY} to one that has it"
        )),
        Err(e) => Err(format!("provider {name:?}: {e}")),
    }
}

/// A session on the file and the CPU, with `threads` threads that wait asleep or (`spinning`) awake.
pub fn session(file: &Path, threads: usize, spinning: bool) -> Result<Session, String> {
    session_by(file, threads, spinning, &[])
}

fn session_by(
    file: &Path,
    threads: usize,
    spinning: bool,
    by: &[ExecutionProviderDispatch],
) -> Result<Session, String> {
    let refuse = |e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
    let build = || -> ort::Result<Session> {
        let environment = environment().map_err(ort::Error::new)?;
        let builder = Session::builder(environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(threads)?
            .with_intra_op_spinning(spinning)?;
        let mut builder = builder.with_execution_providers(by)?;
        builder.commit_from_file(file)
    };
    build().map_err(|e| refuse(&e))
}

/// How a file wants its image.
#[derive(Clone, Debug)]
struct Input {
    /// As its dimensions are.
    shape: [i64; 4],
    channels_first: bool,
    rows: Rows,
    height: usize,
    width: usize,
}

/// All files of one family.
#[derive(Debug)]
pub struct Onnx {
    files: Vec<PathBuf>,
    inputs: Arc<Vec<Input>>,
    channels: usize,
    provider: Provider,
}

#[derive(Debug)]
struct Bench {
    sessions: Vec<Session>,
    inputs: Arc<Vec<Input>>,
    channels: usize,
    /// A row with its channels together, and the whole input.
    row: Vec<f32>,
    data: Vec<f32>,
    logits: Vec<f32>,
}

impl Onnx {
    /// Opens every file once, to see what it wants and that it makes `classes` logits.
    pub fn new(
        files: Vec<PathBuf>,
        images: &Images,
        classes: usize,
        provider: Provider,
    ) -> Result<Self, String> {
        let mut inputs = Vec::new();
        providers(provider)?;
        for file in &files {
            let refuse = |rule: String| format!("{}: {rule}", file.display());
            let session = session(file, 1, false)?;
            let [only] = session.inputs() else {
                return Err(refuse(format!("{} inputs; it has one", session.inputs().len())));
            };
            let shape = only.dtype().tensor_shape();
            let dims: Vec<i64> = shape.map(|s| s.iter().copied().collect()).unwrap_or_default();
            inputs.push(input(&dims, images).map_err(refuse)?);
        }
        let onnx = Self { files, inputs: Arc::new(inputs), channels: images.size.2, provider };
        // A first inference on each: what cannot run is refused here, not in the middle of a stream.
        let mut worker = onnx.bench()?;
        let image = vec![0; images.size.0 * images.size.1 * images.size.2];
        for (subnet, file) in onnx.files.iter().enumerate() {
            let logits = worker.infer(subnet, &image).map_err(|e| format!("{}: {e}", file.display()))?;
            if logits.len() != classes || !logits.iter().all(|x| x.is_finite()) {
                let n = logits.len();
                return Err(format!("{}: {n} logits; {classes}, all finite", file.display()));
            }
        }
        Ok(onnx)
    }

    fn bench(&self) -> Result<Bench, String> {
        let by = providers(self.provider)?;
        Ok(Bench {
            sessions: self.files.iter().map(|f| session_by(f, 1, false, &by)).collect::<Result<_, _>>()?,
            inputs: Arc::clone(&self.inputs),
            channels: self.channels,
            row: Vec::new(),
            data: Vec::new(),
            logits: Vec::new(),
        })
    }
}

/// What the dimensions say; a negative one is free.
fn input(dims: &[i64], images: &Images) -> Result<Input, String> {
    let (height, width, channels) = images.size;
    let &[n, a, b, c] = dims else { return Err(format!("an input of {} dimensions; four", dims.len())) };
    let is = |dim: i64, size: usize| usize::try_from(dim) == Ok(size);
    let channels_first = is(a, channels) || !is(c, channels);
    let (d, h, w) = if channels_first { (a, b, c) } else { (c, a, b) };
    let side = |dim: i64, size: usize| usize::try_from(dim).unwrap_or(size);
    if n > 1 || !(d < 0 || is(d, channels)) || h == 0 || w == 0 {
        return Err(format!(
            "an input of {dims:?}; the manifest's images make (1, {channels}, rows, columns)"
        ));
    }
    let (height, width) = (side(h, height), side(w, width));
    let signed = |n: usize| i64::try_from(n).expect("sides are small");
    let (d, h, w) = (signed(channels), signed(height), signed(width));
    let shape = if channels_first { [1, d, h, w] } else { [1, h, w, d] };
    Ok(Input { shape, channels_first, rows: images.rows(height, width), height, width })
}

impl Bench {
    fn infer(&mut self, subnet: usize, image: &[u8]) -> Result<&[f32], String> {
        let (input, n) = (&self.inputs[subnet], self.channels);
        let pixels = input.height * input.width;
        self.row.resize(input.width * n, 0.0);
        self.data.resize(pixels * n, 0.0);
        for y in 0..input.height {
            let at = y * input.width;
            if input.channels_first {
                input.rows.lay(image, y, &mut self.row);
                for (x, pixel) in self.row.chunks_exact(n).enumerate() {
                    for (c, value) in pixel.iter().enumerate() {
                        self.data[c * pixels + at + x] = *value;
                    }
                }
            } else {
                input.rows.lay(image, y, &mut self.data[at * n..][..input.width * n]);
            }
        }
        let tensor = TensorRef::from_array_view((input.shape, &self.data[..])).map_err(|e| e.to_string())?;
        let outputs = self.sessions[subnet].run(ort::inputs![tensor]).map_err(|e| e.to_string())?;
        let (_, logits) = outputs[0].try_extract_tensor::<f32>().map_err(|e| e.to_string())?;
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        Ok(&self.logits)
    }
}

impl Engine for Onnx {
    fn name(&self, _: Kernel) -> &'static str {
        "onnxruntime"
    }

    fn worker(&self, _: Kernel) -> Result<Box<dyn Worker>, String> {
        Ok(Box::new(self.bench()?))
    }

    fn layers(&self, _: usize) -> usize {
        1
    }

    fn bytes(&self) -> Option<usize> {
        None
    }
}

impl Worker for Bench {
    fn run(
        &mut self,
        subnet: usize,
        image: &[u8],
        _: &mut Crew<'_>,
        go_on: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<&[f32]>, String> {
        let logits = self.infer(subnet, image)?;
        Ok(go_on(0).is_continue().then_some(logits))
    }
}
