//! State dicts of `PyTorch` load as they are, and give its outputs. `tests/data/pytorch/make.py` makes the fixtures.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path};

use parityd::model::{Architecture, Device, Net, Parameters, Preprocessing, Tensor};

const AS_IT_IS: Preprocessing = Preprocessing { mean: 0.0, std: 1.0, weight: 1.0 };

/// Names of the files tell architecture and shape of a row.
fn check(file: &str) {
    let bytes = fs::read(Path::new("tests/data/pytorch").join(format!("{file}.safetensors"))).unwrap();
    let (architecture, shape) = file.rsplit_once('-').unwrap();
    let shape: Vec<usize> = shape.split('x').map(|side| side.parse().unwrap()).collect();
    let plan = architecture.parse::<Architecture>().unwrap().plan(&shape, 10).unwrap();
    let all = Parameters::from_safetensors(&bytes).unwrap();
    let parameters = all.iter().filter(|(name, _)| !["input", "output"].contains(&name.as_str()));
    let parameters = Parameters::new(parameters.map(|(name, tensor)| (name.clone(), tensor.clone())));
    assert_eq!(parameters.faults(&plan), Vec::<String>::new(), "{file}");

    let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (input, expected) = (values(all.get("input").unwrap()), values(all.get("output").unwrap()));
    let packed = Net::new(&plan, AS_IT_IS, &parameters, &Device::Cpu).unwrap();
    let live = Net::live(&plan, AS_IT_IS, &parameters, &Device::Cpu).unwrap();
    for (form, net) in [("packed", packed), ("live", live)] {
        let found = net.run(&input).unwrap();
        let furthest =
            found.iter().zip(&expected).map(|(found, expected)| (found - expected).abs()).fold(0.0, f32::max);
        assert!(found.len() == expected.len() && furthest < 1e-4, "{file}, {form}: {furthest}");
    }
}

#[test]
fn networks_of_the_papers_give_pytorchs_outputs() {
    check("mlp-1x28x28");
    check("lenet5-1x28x28");
    check("vgg11-w2-1x28x28");
    check("vgg11-w2-3x32x32");
    check("resnet18-w4-1x28x28");
    check("resnet152-w2-3x32x32");
}

#[test]
fn networks_for_large_pictures_give_pytorchs_outputs() {
    check("vgg11-w1-3x224x224");
    check("resnet18-w3-3x75x96");
}
