//! Opens a graph and holds it to the signature that the manifest promises, so that a wrong file fails at start.

use std::path::Path;
use std::time::Instant;

use ort::session::{Session, SessionInputs};
use ort::value::{Outlet, Tensor, TensorElementType, ValueType};

use super::{Runtime, RuntimeError};

/// A tensor that a graph must have: its name, element type, and dimensions, `None` where they vary.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) name: String,
    pub(crate) element: TensorElementType,
    pub(crate) shape: Vec<Option<usize>>,
}

impl Expected {
    pub(crate) fn new(name: &str, element: TensorElementType, shape: &[Option<usize>]) -> Self {
        Self { name: name.to_owned(), element, shape: shape.to_vec() }
    }

    fn describe(&self) -> String {
        let dims: Vec<_> = self.shape.iter().map(|dim| dim.map_or("?".into(), |n| n.to_string())).collect();
        format!("{} {} [{}]", self.name, self.element, dims.join(", "))
    }

    /// A graph may leave a dimension open that we know; it may not contradict us, nor fix what varies.
    fn fits(&self, outlet: &Outlet) -> bool {
        let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else { return false };
        *ty == self.element
            && shape.len() == self.shape.len()
            && shape
                .iter()
                .zip(&self.shape)
                .all(|(found, wanted)| *found == -1 || *wanted == usize::try_from(*found).ok())
    }
}

/// A session that knows its name for messages.
#[derive(Debug)]
pub(crate) struct GraphSession {
    graph: &'static str,
    session: Session,
}

impl GraphSession {
    /// Loads `path` and compares its inputs and outputs with what is expected.
    pub(crate) fn open(
        runtime: &Runtime,
        graph: &'static str,
        path: &Path,
        inputs: &[Expected],
        outputs: &[Expected],
    ) -> Result<Self, RuntimeError> {
        let started = Instant::now();
        let session = commit(runtime, graph, path).map_err(|source| RuntimeError::Load {
            graph,
            path: path.to_path_buf(),
            source,
        })?;
        let signature = |detail| RuntimeError::Signature { graph, path: path.to_path_buf(), detail };
        check("input", session.inputs(), inputs).map_err(signature)?;
        check("output", session.outputs(), outputs).map_err(signature)?;
        tracing::info!(graph, ms = started.elapsed().as_millis(), "graph opened");
        Ok(Self { graph, session })
    }

    /// Runs the graph and copies the one output asked for: its elements in row-major order.
    pub(crate) fn run<'i, 'v: 'i, const N: usize>(
        &mut self,
        inputs: impl Into<SessionInputs<'i, 'v, N>>,
        output: &str,
    ) -> Result<Vec<f32>, RuntimeError> {
        let graph = self.graph;
        let run = || -> ort::Result<Vec<f32>> {
            let outputs = self.session.run(inputs)?;
            Ok(outputs[output].try_extract_tensor::<f32>()?.1.to_vec())
        };
        run().map_err(|source| RuntimeError::Run { graph, source })
    }

    pub(crate) fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    pub(crate) fn graph(&self) -> &'static str {
        self.graph
    }
}

/// A separate function because the builder's errors are not `Send`.
fn commit(runtime: &Runtime, graph: &str, path: &Path) -> ort::Result<Session> {
    // Shapes change from run to run, so a plan of one shape is of no use to the next.
    let mut builder = Session::builder(runtime.environment())?.with_log_id(graph)?.with_memory_pattern(false)?;
    if !has_vnni() {
        builder = builder.with_config_entry("session.x64quantprecision", "1")?;
    }
    builder.commit_from_file(path)
}

/// Without VNNI the 8-bit kernels of x86 add pairs of products in 16 bits and saturate; the session entry above makes ONNX
/// Runtime take exact kernels, which cost 5 to 40 % of the time. With VNNI it is not needed, and other processors ignore it.
fn has_vnni() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx512vnni") || std::arch::is_x86_feature_detected!("avxvnni")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

fn check(what: &str, found: &[Outlet], expected: &[Expected]) -> Result<(), String> {
    for wanted in expected {
        match found.iter().find(|outlet| outlet.name() == wanted.name) {
            None => return Err(format!("{what} {} is missing", wanted.describe())),
            Some(outlet) if !wanted.fits(outlet) => {
                return Err(format!("{what} {} is {} in the graph", wanted.describe(), outlet.dtype()));
            }
            Some(_) => {}
        }
    }
    match found.iter().find(|outlet| !expected.iter().any(|wanted| wanted.name == outlet.name())) {
        Some(extra) => Err(format!("{what} {} is unknown to the manifest", extra.name())),
        None => Ok(()),
    }
}

/// An owned f32 tensor, also of no elements, which `Tensor::from_array` refuses.
pub(crate) fn f32_tensor<const D: usize>(shape: [usize; D], data: Vec<f32>) -> ort::Result<Tensor<f32>> {
    if data.is_empty() {
        return Tensor::new(&ort::memory::Allocator::default(), shape);
    }
    Tensor::from_array((shape, data))
}
