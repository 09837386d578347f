"""`orch8-cloud up`: the whole product on one machine, in one terminal."""
