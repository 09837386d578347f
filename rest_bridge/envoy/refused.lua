-- Carries a refusal with a 5xx status through ext_authz, which takes any 5xx for a failure of the proxy itself and drops
-- what it says. 503 travels as 453; a local reply restores it. Only a decision has an id: a true failure has none.

function envoy_on_response(handle)
  local headers = handle:headers()
  local status = headers:get(":status")
  if string.sub(status, 1, 1) == "5" and headers:get("x-orch8-decision-id") ~= nil then
    headers:replace(":status", "45" .. string.sub(status, 3, 3))
  end
end
