-- Refuses gRPC where it is not served. To a gRPC request Envoy gives every answer of its own in gRPC's form, with HTTP
-- status 200; whoever called a REST path with this content type would take that for success.

local BODY = {{BODY}}
local GRPC = {"grpc-status", "grpc-message"}

function envoy_on_request(handle)
  local kind = handle:headers():get("content-type")
  if kind == nil or string.find(kind, "^application/grpc") == nil then
    return
  end
  if string.find(kind, "^application/grpc%-web") == nil and handle:metadata():get("grpc") == nil then
    handle:respond({[":status"] = "400"}, "")
  end
end

-- The local replies mark what has to be finished here, for some are given before the request comes this far. The mark is
-- the method: an answer to HEAD has no body.
function envoy_on_response(handle)
  local headers = handle:headers()
  local method = headers:get("{{MARK}}")
  if method == nil then
    return
  end
  headers:remove("{{MARK}}")
  for _, name in ipairs(GRPC) do
    headers:remove(name)
  end
  headers:replace(":status", "400")
  headers:replace("content-type", "application/json")
  if method ~= "HEAD" then
    handle:body(true):setBytes(BODY)
  end
end
