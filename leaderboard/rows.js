factlife.receive("rows", {"reference":"","demo":""});
