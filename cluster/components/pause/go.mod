module inference-system/cluster/pause

go 1.24.0
