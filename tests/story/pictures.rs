//! Real pictures through real weights: a file is classified as its pixels are, and what a lossy format loses costs little.

use std::{fs, io::Cursor, path::Path};

use image::{DynamicImage, GrayImage, ImageFormat};
use parityd::data;
use serde_json::{Value, json};

use crate::{
    alone,
    daemon::{Daemon, agent, config},
    load::argmax,
};

/// Every picture of the tests, with its label.
fn pictures() -> Vec<(GrayImage, u8, Vec<f32>)> {
    let images = data::test(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")).unwrap();
    let of = |(row, &label): (&[f32], &u8)| {
        let bytes = row.iter().map(|level| (level * 255.0).round() as u8).collect();
        (GrayImage::from_raw(28, 28, bytes).unwrap(), label, row.to_vec())
    };
    images.pixels.chunks(28 * 28).zip(&images.labels).map(of).collect()
}

fn file(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, format).unwrap();
    file.into_inner()
}

#[test]
fn a_file_is_classified_as_its_pixels_are() {
    let _alone = alone();
    let daemon = Daemon::start(&config("config.toml", &[]));
    let agent = agent(std::time::Duration::from_secs(5));
    let model = format!("{}/v2/models/fashion-mnist", daemon.url);
    let ask = |path: &str, kind: &str, body: &[u8]| -> Value {
        let reply = agent.post(format!("{model}/{path}")).content_type(kind).send(body).unwrap();
        assert_eq!(reply.status(), 200);
        reply.into_body().read_json().unwrap()
    };
    let classify = |picture: &DynamicImage, format| {
        let reply = ask("classify?top_k=1&allow_reconstructed=false", "image/any", &file(picture, format));
        usize::try_from(reply["classes"][0]["index"].as_u64().unwrap()).unwrap()
    };
    let (mut right, mut lossy, mut large) = (0, 0, 0);
    let pictures = pictures();
    for (picture, label, row) in &pictures {
        let input = json!({"name": "input", "shape": [1, 1, 28, 28], "datatype": "FP32", "data": row});
        let body = json!({"inputs": [input], "parameters": {"allow_reconstructed": false}}).to_string();
        let reply = ask("infer", "application/json", body.as_bytes());
        let logits: Vec<f32> = serde_json::from_value(reply["outputs"][0]["data"].clone()).unwrap();
        let class = argmax(&logits).unwrap();
        let grey = DynamicImage::from(picture.clone());
        assert_eq!(classify(&grey, ImageFormat::Png), class, "grey PNG");
        let colour = DynamicImage::from(grey.to_rgb8());
        assert_eq!(classify(&colour, ImageFormat::WebP), class, "lossless WebP in colour");
        right += usize::from(class == usize::from(*label));
        lossy += usize::from(classify(&grey, ImageFormat::Jpeg) == class);
        let twice = grey.resize_exact(84, 84, image::imageops::FilterType::Nearest);
        large += usize::from(classify(&twice, ImageFormat::Png) == class);
    }
    println!("{} pictures: {right} right; {lossy} the same as JPEG, {large} three times as large", pictures.len());
    assert!(right >= 840 && lossy >= 900 && large >= 900);
}

/// The command of README.md, but that a busy machine may not reconstruct the answer.
#[test]
fn the_picture_of_the_readme_is_an_ankle_boot() {
    let _alone = alone();
    let daemon = Daemon::start(&config("config.toml", &[]));
    let picture = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/fashion-mnist/1/example.png");
    let route = format!("{}/v2/models/fashion-mnist/classify?top_k=2&allow_reconstructed=false", daemon.url);
    let reply = agent(std::time::Duration::from_secs(5)).post(route).send(&fs::read(picture).unwrap()[..]).unwrap();
    let reply: Value = reply.into_body().read_json().unwrap();
    assert_eq!(reply["classes"][0]["label"], "Ankle boot", "{reply}");
}
