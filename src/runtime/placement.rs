//! The placement of a graph's nodes on providers. Checked after a session is made, because a
//! provider leaves nodes that it cannot run to the CPU without an error.
#![expect(unsafe_code, reason = "ort does not wrap this part of ONNX Runtime's interface")]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};
use std::fmt;
use std::ptr;

use ort::session::Session;
use ort::{AsPointer, Error};

use super::Provider;

/// The setting of a session that makes ONNX Runtime record the placement.
pub(super) const TAKE_NOTES: (&str, &str) = ("session.record_ep_graph_assignment_info", "1");

/// Operators that move or reshape data, and compute nothing. TensorRT may leave them to CUDA at the
/// edges of its engine.
const MOVING: [&str; 11] = [
    "Cast",
    "Concat",
    "Expand",
    "Gather",
    "Identity",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
];

/// The number of nodes of each operator on each provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placement(BTreeMap<String, BTreeMap<String, usize>>);

impl Placement {
    /// Reads the placement of a session that records it.
    pub(super) fn of(session: &Session) -> ort::Result<Self> {
        let api = ort::api();
        let mut placement: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
        let mut subgraphs = ptr::null();
        let mut count = 0;
        // SAFETY: the session is live, and ONNX Runtime writes an array that lives as long as it.
        let subgraphs = unsafe {
            Error::result_from_status((api.Session_GetEpGraphAssignmentInfo)(
                session.ptr(),
                &raw mut subgraphs,
                &raw mut count,
            ))?;
            items(subgraphs, count)
        };
        for subgraph in subgraphs {
            let mut provider = ptr::null();
            let mut nodes = ptr::null();
            let mut count = 0;
            // SAFETY: the subgraph belongs to the session, as do the strings and arrays that are
            // written here.
            let (provider, nodes) = unsafe {
                Error::result_from_status((api.EpAssignedSubgraph_GetEpName)(*subgraph, &raw mut provider))?;
                Error::result_from_status((api.EpAssignedSubgraph_GetNodes)(
                    *subgraph,
                    &raw mut nodes,
                    &raw mut count,
                ))?;
                (text(provider), items(nodes, count))
            };
            let operators = placement.entry(provider).or_default();
            for node in nodes {
                let mut operator = ptr::null();
                // SAFETY: as above.
                let operator = unsafe {
                    Error::result_from_status((api.EpAssignedNode_GetOperatorType)(*node, &raw mut operator))?;
                    text(operator)
                };
                *operators.entry(operator).or_default() += 1;
            }
        }
        Ok(Self(placement))
    }

    /// Returns the nodes that `asked` should run and does not, as a clause; `None` if there are
    /// none. Graphs for GPUs compute no shapes, so no node belongs on the CPU.
    pub(super) fn strays(&self, asked: Provider) -> Option<String> {
        let wanted = name(asked);
        let strays = self.0.iter().filter(|(provider, _)| *provider != wanted).flat_map(|(provider, operators)| {
            let is_allowed = asked == Provider::TensorRt && provider == name(Provider::Cuda);
            let strays =
                operators.iter().filter(move |(operator, _)| !(is_allowed && MOVING.contains(&operator.as_str())));
            strays.map(move |(operator, count)| format!("{operator} x {count} on {provider}"))
        });
        let strays: Vec<_> = strays.collect();
        (!strays.is_empty()).then(|| strays.join(", "))
    }
}

/// Returns ONNX Runtime's name of a provider.
fn name(provider: Provider) -> &'static str {
    match provider {
        Provider::Cpu => "CPUExecutionProvider",
        Provider::Cuda => "CUDAExecutionProvider",
        Provider::TensorRt => "TensorrtExecutionProvider",
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = |operators: &BTreeMap<String, usize>| operators.values().sum::<usize>();
        let counts: Vec<_> =
            self.0.iter().map(|(provider, operators)| format!("{provider} {}", nodes(operators))).collect();
        f.write_str(&counts.join(", "))
    }
}

/// # Safety
/// The array has `count` items, and lives as long as the result.
unsafe fn items<'a, T>(first: *const T, count: usize) -> &'a [T] {
    if first.is_null() || count == 0 {
        return &[];
    }
    // SAFETY: as the caller vouches.
    unsafe { std::slice::from_raw_parts(first, count) }
}

/// # Safety
/// Null, or a C string.
unsafe fn text(string: *const c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: as the caller vouches.
    unsafe { CStr::from_ptr(string) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placement(nodes: &[(&str, &str, usize)]) -> Placement {
        let mut placement: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
        for (provider, operator, count) in nodes {
            placement.entry((*provider).to_owned()).or_default().insert((*operator).to_owned(), *count);
        }
        Placement(placement)
    }

    const CPU: &str = "CPUExecutionProvider";
    const CUDA: &str = "CUDAExecutionProvider";
    const TENSORRT: &str = "TensorrtExecutionProvider";

    #[test]
    fn a_graph_that_is_where_it_should_be_has_no_strays() {
        let placed = placement(&[(CUDA, "MatMul", 9), (CUDA, "Concat", 3)]);
        assert_eq!(placed.strays(Provider::Cuda), None);
        assert_eq!(placed.to_string(), "CUDAExecutionProvider 12");
        let placed = placement(&[(TENSORRT, "MatMul", 9), (CUDA, "Cast", 1), (CUDA, "Reshape", 2)]);
        assert_eq!(placed.strays(Provider::TensorRt), None);
    }

    #[test]
    fn any_node_on_the_cpu_is_a_stray() {
        let placed = placement(&[(CPU, "MatMulInteger", 4), (CPU, "Shape", 2), (CUDA, "MatMul", 1)]);
        let strays = "MatMulInteger x 4 on CPUExecutionProvider, Shape x 2 on CPUExecutionProvider";
        assert_eq!(placed.strays(Provider::Cuda).unwrap(), strays);
        assert_eq!(
            placement(&[(CPU, "Cast", 1)]).strays(Provider::TensorRt).unwrap(),
            "Cast x 1 on CPUExecutionProvider"
        );
    }

    #[test]
    fn what_tensorrt_was_to_compute_is_a_stray_on_cuda() {
        let placed = placement(&[(CUDA, "MatMul", 66), (CUDA, "Cast", 2)]);
        assert_eq!(placed.strays(Provider::TensorRt).unwrap(), "MatMul x 66 on CUDAExecutionProvider");
    }
}
