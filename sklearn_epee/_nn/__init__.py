"""Everything that imports torch: backbones, network, training, engine and store."""
