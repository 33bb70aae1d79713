-- Watches whether Triton's models answer, inside the proxy, which says so to the kubelet: Triton's own health is
-- that of its process, and stays well with a model that hangs or fails every request. /state/full, where it is there,
-- says why Triton is to be started anew although they do (start-triton.sh).
-- In the environment: WATCHED_MODELS, names with spaces between; REQUEST_SECONDS that a request may live;
-- WATCHED_FOLDER with NAME.json for each, the head of a request whose tensor of zero bytes follows it.
--
-- A model answers while its requests succeed, so a load, however high, asks for nothing more. Where none has
-- succeeded for QUIET seconds, one is sent. The model has stalled when that one too has had the time that a
-- request may live. Where requests fail in the model, requests are sent for a while to see whether it is them: the model
-- is broken when two of these, which are right, fail.

local QUIET, LOOK, DOUBT = 5, 2, 30 -- seconds

local lifetime, folder = tonumber(os.getenv("REQUEST_SECONDS")), os.getenv("WATCHED_FOLDER")
local triton, metrics = "http://127.0.0.1:8080", "http://127.0.0.1:8002/metrics"
local problems = {} -- by what has one: a sentence

local function seconds()
  local now = core.now()
  return now.sec + now.usec / 1e6
end

-- Adds up a counter over the versions of a model; nil where the metrics don't have it.
local function total(text, counter, model, more)
  local sum
  for labels, value in text:gmatch("\n" .. counter .. "{([^}]*)} (%d+)") do
    if labels:find('model="' .. model .. '"', 1, true) and labels:find(more or "", 1, true) then
      sum = (sum or 0) + tonumber(value)
    end
  end
  return sum
end

local function ask(method, url, timeout, headers, body)
  local client = core.httpclient()
  local done, answer = pcall(client[method], client,
    {url = url, timeout = math.floor(timeout * 1000), headers = headers, body = body})
  return done and answer or {status = 0, body = ""}
end

local function request(model)
  local file = assert(io.open(folder .. "/" .. model .. ".json"))
  local head = file:read("a")
  file:close()
  local size = tonumber(head:match('"binary_data_size":(%d+)'))
  -- The first byte of pixels changes each time, or the answer could come from the response cache.
  local changes = head:find('"UINT8"', 1, true) ~= nil
  local zeros, number = string.rep("\0", changes and size - 1 or size), 0
  local headers = {["inference-header-content-length"] = {tostring(#head)},
                   ["content-type"] = {"application/octet-stream"}}
  return function()
    number = (number + 1) % 256
    local body = head .. (changes and string.char(number) or "") .. zeros
    return ask("post", triton .. "/v2/models/" .. model .. "/infer", lifetime, headers, body).status
  end
end

local function note(what, problem, over)
  if problem ~= problems[what] then core.log(core.warning, problem or over) end
  problems[what] = problem
end

local function watch_memory()
  while true do
    local file = io.open("/state/full")
    note("memory", file and file:read("l"), "Triton has memory again")
    if file then file:close() end
    core.msleep(LOOK * 1000)
  end
end

local function watch_triton()
  local there = true
  while true do
    core.msleep(500)
    local asked = seconds()
    local ready = ask("get", triton .. "/v2/health/ready", LOOK).status == 200
    -- One that is slow to say so is busy.
    if ready ~= there and (ready or seconds() - asked < LOOK / 2) then
      local server = core.backends["triton"].servers["triton"]
      if ready then server:set_ready() else server:set_maint() end
      core.log(core.warning, "Triton " .. (ready and "is ready" or "is not ready"))
      there = ready
    end
  end
end

local function watch(model)
  local what, send = "model " .. model, request(model)
  local good, doubt, failed = seconds(), 0, {} -- when it last answered; until when to look; when requests failed
  local successes, failures = 0, 0
  while true do
    core.msleep(LOOK * 1000)
    collectgarbage() -- what a request holds outside of Lua goes with it, and Lua does not know how much that is
    local answer = ask("get", metrics, LOOK)
    local succeeded = answer.status == 200 and total(answer.body, "nv_inference_request_success", model)
    if not succeeded or ask("get", triton .. "/v2/health/ready", LOOK).status ~= 200 then
      -- Not loaded, or silent as a whole: Triton's own health says that.
      good, problems[what] = seconds(), nil
    else
      local fails = total(answer.body, "nv_inference_request_failure", model, 'reason="BACKEND"') or 0
      if succeeded > successes then good = seconds() end
      if fails > failures then doubt = seconds() + DOUBT / 2 end
      successes, failures = succeeded, fails
      if seconds() < doubt or seconds() - good > QUIET then
        local status = send()
        if status == 500 then
          table.insert(failed, 1, seconds())
          failed[3], doubt = nil, seconds() + DOUBT
        elseif status >= 200 and status < 500 then
          good = seconds()
        end
      end
      local broken = failed[2] and seconds() - failed[2] < DOUBT
      local stalled = seconds() - good > QUIET + lifetime
      local problem = broken and "fails" or stalled and "does not answer" or nil
      note(what, problem and what .. " " .. problem, what .. " answers again")
    end
  end
end

core.register_task(watch_triton)
core.register_task(watch_memory)
for model in os.getenv("WATCHED_MODELS"):gmatch("%S+") do
  core.register_task(function() watch(model) end)
end

core.register_fetches("problem", function()
  local _, problem = next(problems)
  return problem or ""
end)
