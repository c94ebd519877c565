//! ONNX Runtime reports to its maker when it is initialised; the binary never lets it.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::command_line::blip2;
use crate::lifecycle::Service;

/// ONNX Runtime 1.31 first connects nine seconds after it was initialised.
const FIRST_REPORT: Duration = Duration::from_secs(12);

/// ONNX Runtime does not report from where one of these is set to something.
const BUILD_SERVERS: [&str; 8] =
    ["CI", "TF_BUILD", "GITHUB_ACTIONS", "CIRCLECI", "TRAVIS", "JENKINS_URL", "TEAMCITY_VERSION", "APPVEYOR"];

/// A home and a proxy which notice everything that a process leaves or sends.
struct Trap {
    home: tempfile::TempDir,
    proxy: String,
    connections: Arc<AtomicUsize>,
}

impl Trap {
    fn set() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = format!("http://{}", listener.local_addr().unwrap());
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        thread::spawn(move || {
            listener.incoming().for_each(|_| {
                counted.fetch_add(1, Ordering::SeqCst);
            })
        });
        Self { home: tempfile::tempdir().unwrap(), proxy, connections }
    }

    /// The environment of a user who wants reports and sends everything through a proxy.
    fn environment(&self) -> Vec<(&'static str, &str)> {
        let home = self.home.path().to_str().unwrap();
        let proxies = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY"];
        let folders = ["HOME", "XDG_CACHE_HOME", "TMPDIR"];
        let wanted = [("ORT_DISABLE_TELEMETRY", "0")];
        let proxies = proxies.map(|name| (name, self.proxy.as_str())).into_iter();
        let elsewhere = BUILD_SERVERS.map(|name| (name, ""));
        proxies.chain(folders.map(|name| (name, home))).chain(wanted).chain(elsewhere).collect()
    }

    fn assert_empty(&self) {
        assert_eq!(files(self.home.path()), Vec::<PathBuf>::new());
        assert_eq!(self.connections.load(Ordering::SeqCst), 0, "connections to the proxy");
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_command_tells_nobody_and_leaves_nothing() {
    let trap = Trap::set();
    let mut command = blip2(&["score", "--image", "tests/fixtures/scene.png"]);
    assert!(command.envs(trap.environment()).output().unwrap().status.success());
    trap.assert_empty();
}

#[test]
fn a_service_tells_nobody_and_leaves_nothing() {
    let trap = Trap::set();
    let service = Service::start(&[], &trap.environment());
    thread::sleep(FIRST_REPORT);
    assert_eq!(service.stop().0, Some(0));
    trap.assert_empty();
}

/// Without this, the two tests above could pass because the trap catches nothing.
#[test]
fn the_trap_catches_onnx_runtime_when_nobody_turns_reports_off() {
    const REPORTER: &str = r#"
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
class Base(ctypes.Structure):
    _fields_ = [("get_api", ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)), ("version", ctypes.c_void_p)]
library.OrtGetApiBase.restype = ctypes.POINTER(Base)
api = library.OrtGetApiBase().contents.get_api(24)
# OrtApi begins with CreateStatus, GetErrorCode, GetErrorMessage, CreateEnv.
create_env = ctypes.cast(api, ctypes.POINTER(ctypes.c_void_p))[3]
signature = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(ctypes.c_void_p))
environment = ctypes.c_void_p()
assert not signature(create_env)(3, b"trap", ctypes.byref(environment))
"#;
    let trap = Trap::set();
    let library = crate::helpers::repository(".ort/libonnxruntime.so");
    let library = std::env::var_os("ORT_DYLIB_PATH").map_or(library, PathBuf::from);
    let mut reporter = Command::new("python3");
    reporter.args(["-c", REPORTER]).arg(library).envs(trap.environment());
    assert!(reporter.status().unwrap().success());
    assert!(!files(trap.home.path()).is_empty(), "ONNX Runtime leaves a device id in the cache folder");
}
