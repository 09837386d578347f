"""The control plane: rules, state and jobs of Orch8 Cloud."""
