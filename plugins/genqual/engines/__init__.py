"""How it is run: a torch-free EngineSpec and one implementation file an engine, behind one Protocol."""
