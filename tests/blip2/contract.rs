//! The contract with callers of Azure's and MLflow's servers, as data: each case is sent byte for byte over a bare
//! connection, to a service with the scripted model, and its answer held against every rule of the case.
//!
//! `tests/fixtures/contract` holds the essential cases and those of our own. All that were recorded are in
//! `../shared/contract`, where it lies beside the repository, or in the folder that `BLIP2_CONTRACT_CASES` names. A case runs
//! in every start of the service that meets its conditions.

mod case;
mod check;
mod image_server;
pub(crate) mod wire;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use blip2::fetch::FetchSettings;
use blip2::server::ServerSettings;

use self::case::{Case, CaseFile, Places};
use self::image_server::ImageServer;
use self::wire::Connection;
use crate::helpers::{TestApp, repository, settings, spawn_app_with};
use crate::scripted_model::{Script, engine};

const CORS_ORIGIN: &str = "https://app.example.org";

/// One start of the service, and the conditions that it meets.
struct Start {
    name: &'static str,
    meets: &'static [&'static str],
    app: TestApp,
}

fn starts() -> [Start; 3] {
    let start = |name, meets, change: fn(&mut ServerSettings)| {
        let mut settings = ServerSettings { max_body_bytes: 100 << 20, ..settings() };
        change(&mut settings);
        Start { name, meets, app: spawn_app_with(Some(engine(Script::default(), 4, 64)), settings) }
    };
    [
        start("default", &["image-server", "url-guard", "no-cors"], |_| {}),
        start("loopback URLs", &["image-server", "loopback-urls", "no-cors"], |settings| {
            settings.fetch = Some(FetchSettings { allow_private_addresses: true, ..FetchSettings::default() });
        }),
        start("CORS", &["image-server", "url-guard", "cors"], |settings| {
            settings.cors_origins = vec!["https://other.example.org".into(), CORS_ORIGIN.into()];
        }),
    ]
}

/// Sends every case of the files, and tells at the end of all that went wrong.
fn run(files: &[&Path]) {
    let (starts, images) = (starts(), ImageServer::start());
    let places = Places { image_port: images.port(), cors_origin: CORS_ORIGIN };
    let mut failures = Vec::new();
    let (mut passed, mut exchanges) = (0, 0);
    for file in files {
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let file: CaseFile = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert_eq!(file.format, "azure-contract/1");
        for case in &file.cases {
            let able: Vec<_> = starts.iter().filter(|start| case.is_met_by(start.meets)).collect();
            assert!(!able.is_empty(), "{}: no start meets {:?}", case.name, case.needs);
            let faults: Vec<_> = able
                .iter()
                .filter_map(|start| {
                    Some(format!("{} ({}): {}", case.name, start.name, send(case, start, &places, &images).err()?))
                })
                .collect();
            exchanges += able.len();
            passed += usize::from(faults.is_empty());
            failures.extend(faults);
        }
    }
    println!("{passed} cases passed in {exchanges} exchanges");
    assert!(failures.is_empty(), "{} exchanges went wrong:\n{}", failures.len(), failures.join("\n"));
}

fn send(case: &Case, start: &Start, places: &Places, images: &ImageServer) -> Result<(), String> {
    let request = case.request(places);
    let (hits, started) = (images.hits(), Instant::now());
    let mut connection = Connection::open(start.app.port()).map_err(|error| error.to_string())?;
    for _ in 0..case.repeat.unwrap_or(1) {
        let answer = connection.exchange(&request).map_err(|error| format!("no answer: {error}"))?;
        check::answer(&case.expect, &answer, places)?;
    }
    check::exchange(&case.expect, started.elapsed(), images.hits() - hits)?;
    if case.expect.connection_closed == Some(true) && !connection.is_closed() {
        return Err("the connection stays open".into());
    }
    Ok(())
}

#[test]
fn the_service_keeps_the_essential_cases_of_the_contract() {
    let folder = repository("tests/fixtures/contract");
    run(&[&folder.join("cases.json"), &folder.join("cases_mlflow.json"), &folder.join("cases_own.json")]);
}

#[test]
fn the_service_keeps_every_recorded_case_of_the_contract() {
    let named = std::env::var_os("BLIP2_CONTRACT_CASES").map(PathBuf::from);
    let folder = named.unwrap_or_else(|| repository("../shared/contract"));
    if !folder.is_dir() {
        println!("there is no {}; the essential cases are in tests/fixtures/contract", folder.display());
        return;
    }
    run(&[&folder.join("cases.json"), &folder.join("cases_mlflow.json")]);
}

#[test]
fn the_committed_cases_show_every_group_of_the_contract() {
    let mut groups: Vec<String> = ["cases.json", "cases_mlflow.json"]
        .iter()
        .flat_map(|file| {
            let text = fs::read_to_string(repository("tests/fixtures/contract").join(file)).unwrap();
            serde_json::from_str::<CaseFile>(&text).unwrap().cases
        })
        .map(|case| case.group)
        .collect();
    groups.sort();
    groups.dedup();
    let all = "base64 body captioning connection content-type cors format ids image mlflow params route shape swagger text url";
    assert_eq!(groups.join(" "), all);
}
