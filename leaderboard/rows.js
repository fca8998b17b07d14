factlife.receive("rows", {"demo":""});
