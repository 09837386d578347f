-- Finishes the answer of a transcoded call. It stands before the transcoder, so it sees the answer after it.

local GRPC = {"grpc-status", "grpc-message", "grpc-encoding", "grpc-accept-encoding", "grpc-status-details-bin"}
local FAULT = {{FAULT}}
local STOPPED = {{STOPPED}}

function envoy_on_response(handle)
  local headers = handle:headers()
  local route = handle:metadata()
  local status = headers:get(":status")

  -- Every header before the body: once the body is read, the headers are out of reach.
  for _, name in ipairs(GRPC) do
    headers:remove(name)
  end

  -- An error whose status gRPC has no code for.
  local exact = headers:get("x-http-status")
  if exact ~= nil then
    headers:remove("x-http-status")
    if status ~= "200" and string.find(exact, "^[45]%d%d$") then
      headers:replace(":status", exact)
    end
  end
  -- CANCELLED, though the caller is still there: gRPC's own word for a call that meets a server which stops.
  if status == "499" then
    headers:replace(":status", "503")
    headers:replace("content-type", "application/json")
    headers:replace("retry-after", "{{RETRY_AFTER}}")
    handle:body(true):setBytes(STOPPED)
    return
  end
  if status ~= "200" then
    return
  end

  -- Still gRPC: nothing was transcoded, so this is no success, whatever the status says.
  if string.find(headers:get("content-type") or "", "^application/grpc") ~= nil then
    headers:replace(":status", "500")
    headers:replace("content-type", "application/json")
    handle:body(true):setBytes(FAULT)
    return
  end

  local success = route:get("success")
  if success ~= nil then
    headers:replace(":status", success)
  end
  if success == "204" then
    headers:remove("content-type")
    handle:body(true):setBytes("")
    handle:headers():remove("content-length")
    return
  end

  -- {"items":[…]} becomes […].
  local unwrap = route:get("unwrap")
  if unwrap ~= nil then
    local body = handle:body(true)
    local length = body:length()
    if length > #unwrap + 5 then
      body:setBytes(string.sub(body:getBytes(0, length), #unwrap + 5, length - 1))
    end
  end
end
