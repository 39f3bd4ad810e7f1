"""The one place where torch, transformers, peft and accelerate are imported: load, train, decode."""
