-- What the proxy says of the JSON in a request: "ok", or what is wrong with it, which it answers with instead of
-- passing the request on. Triton before 26.05 recurses, a call a bracket, until its stack is full, and makes room
-- for as many elements as a tensor's shape says before it looks at the data, so that a few bytes end it. One that
-- says it has no pictures and brings one counts as many as a picture has rows, so that its whole batch is refused.
--
-- This is no parser: Triton is told whether JSON is JSON. It walks over brackets, strings and the numbers of shapes.

local DEPTH = 16 -- a request has six

-- the number of elements that an array of sizes, from its bracket on, stands for; nil where it is no such array.
local function elements(json, at)
  local inside = json:match("^%[([%d%s,]*)%]", at)
  if not inside then return nil end
  local product = 1
  for size in inside:gmatch("%d+") do
    local number = tonumber(size) + 0.0
    if number == 0 then return 0 end -- infinity times 0 would be no number
    product = product * number
  end
  return product
end

local function problem(json, most)
  local depth, at = 0, 1
  while true do
    at = json:find('[%[%]{}"]', at)
    if not at then return "ok" end
    local byte = json:byte(at)
    if byte == 91 or byte == 123 then -- [ {
      depth = depth + 1
      if depth > DEPTH then return "the JSON is nested too deeply" end
      at = at + 1
    elseif byte == 34 then -- "
      local from = at + 1
      repeat -- to the quote that no backslash stands before
        at = json:find('["\\]', at + 1)
        if not at then return "ok" end
        local escaped = json:byte(at) == 92
        if escaped then at = at + 1 end
      until not escaped
      local colon = json:match("^%s*:%s*()", at + 1)
      if colon then -- a name
        local name = json:sub(from, at - 1)
        if name:find("\\", 1, true) then return "a name in the JSON has a backslash" end
        if name == "shape" then
          local count = elements(json, colon)
          if not count then return "a shape is no list of sizes" end
          if count == 0 then return "a shape has a size of 0" end
          if count > most then return "a shape has more elements than a body may have bytes" end
        end
        at = colon
      else
        at = at + 1
      end
    else
      depth = depth - 1
      at = at + 1
    end
  end
end

-- most: elements of a shape. Looks at what the header says is JSON, or at all of the body; it has to be there.
core.register_fetches("json_problem", function(txn, most)
  local said = txn.sf:req_fhdr("inference-header-content-length")
  local size = tonumber(said ~= "" and said or txn.sf:req_fhdr("content-length")) or 0
  local body = txn.sf:req_body() or ""
  if said == "0" then return "ok" end -- no JSON: the body is the one input, its shape the model's
  if #body < size then return "the JSON did not come" end
  return problem(body:sub(1, size), tonumber(most))
end)
