"""The synthetic worlds and the scripts that train their models; the bundled weights come from here."""
