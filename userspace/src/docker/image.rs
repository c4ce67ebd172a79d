//! The image of network-only containers. It holds one small static program,
//! which this binary carries, so nothing is ever pulled.

use bollard::{body_full, query_parameters::CreateImageOptionsBuilder};
use futures_util::TryStreamExt;
use tokio::sync::Mutex;
use tracing::info;

use super::{
    digest,
    engine::{Asked, Engine, EngineError},
};

/// Compiled by the build script from `netholder/main.rs`.
static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/netholder"));
/// Where the program is in the image.
pub const PROGRAM_PATH: &str = "/netholder";
const REPOSITORY: &str = "vxplane/network";

/// Makes sure that Docker has the image. Imports are made one at a time: many
/// containers may be created at once on a host that has none yet.
#[derive(Debug, Default)]
pub struct Image {
    importing: Mutex<()>,
}

impl Image {
    /// Its name. The tag changes with the program, so an upgraded daemon
    /// imports its own.
    pub fn name() -> String {
        format!("{REPOSITORY}:{}", tag())
    }

    /// Imports the image unless it is there.
    pub async fn ensure(&self, engine: &Engine) -> Result<(), EngineError> {
        let _turn = self.importing.lock().await;
        let client = engine.client().await?;
        let name = Self::name();
        let found = client.inspect_image(&name).await;
        if found
            .asked_maybe(|| format!("look for image {name}"))?
            .is_some()
        {
            return Ok(());
        }
        let tag = tag();
        let options = CreateImageOptionsBuilder::new()
            .from_src("-")
            .repo(REPOSITORY)
            .tag(&tag)
            .build();
        let import = client.create_image(Some(options), Some(body_full(archive().into())), None);
        import
            .try_collect::<Vec<_>>()
            .await
            .asked(|| format!("import image {name}"))?;
        info!(image = name, "image of network-only containers imported");
        Ok(())
    }
}

impl Engine {
    /// The ports that containers of an image expose; none if it is not there.
    pub(super) async fn exposed_by(&self, image: &str) -> Result<Vec<String>, EngineError> {
        let client = self.client().await?;
        let found = client.inspect_image(image).await;
        let found = found.asked_maybe(|| format!("show image {image}"))?;
        let config = found.and_then(|found| found.config);
        Ok(config.and_then(|it| it.exposed_ports).unwrap_or_default())
    }
}

fn tag() -> String {
    digest::short(&[PROGRAM])
}

/// A root file system: the program and nothing else. Docker adds the mount
/// points it needs.
fn archive() -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_size(PROGRAM.len() as u64);
    header.set_mode(0o755);
    let mut archive = tar::Builder::new(Vec::new());
    // Writing to memory does not fail; were it to, Docker would say that the
    // archive is broken.
    let written = archive.append_data(&mut header, &PROGRAM_PATH[1..], PROGRAM);
    written
        .and_then(|()| archive.into_inner())
        .unwrap_or_default()
}
