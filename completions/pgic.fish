complete --keep-order --exclusive --command pgic --arguments "(PGIC_COMPLETE=fish pgic -- (commandline --current-process --tokenize --cut-at-cursor) (commandline --current-token))"
