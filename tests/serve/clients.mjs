// What the official Node client and the Vercel AI SDK get from a gateway; prints one JSON object.
// node clients.mjs URL FOLDER-WITH-node_modules
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [url, place] = process.argv.slice(2);
const find = createRequire(pathToFileURL(`${place}/x.js`));
const load = (name) => import(pathToFileURL(find.resolve(name)));
const messages = [{ role: "user", content: "Where is the parcel?" }];
const schema = { type: "object", properties: { a: { enum: ["x", "y"] } }, required: ["a"], additionalProperties: false };
const tool = { type: "function", function: { name: "wait", parameters: { type: "object", properties: {}, additionalProperties: false } } };

const { default: OpenAI } = await load("openai");
const client = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0 });
const told = { models: (await client.models.list()).data.map((one) => one.id) };
const asked = { model: "tiny", messages, max_tokens: 12, temperature: 1, seed: 7 };
told.whole = (await client.chat.completions.create(asked)).choices[0].message.content;
told.streamed = "";
for await (const chunk of await client.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } })) {
  told.streamed += chunk.choices[0]?.delta?.content ?? "";
  told.usage = chunk.usage ?? told.usage;
}
const form = { type: "json_schema", json_schema: { name: "x", schema } };
told.json = JSON.parse((await client.chat.completions.create({ model: "tiny", messages, response_format: form })).choices[0].message.content);
const called = await client.chat.completions.create({ model: "caller", messages, tools: [tool], tool_choice: "required", parallel_tool_calls: false });
told.call = called.choices[0].message.tool_calls[0].function;
told.points = (await client.embeddings.create({ model: "encoder", input: "hi" })).data[0].embedding.length;
try {
  await client.chat.completions.create({ ...asked, frequency_penalty: 1 });
} catch (error) {
  told.refused = [error.status, error.param, error.constructor.name];
}

const { generateText, streamText } = await load("ai");
const { createOpenAICompatible } = await load("@ai-sdk/openai-compatible");
const model = createOpenAICompatible({ name: "luthier", baseURL: url, includeUsage: true })("tiny");
const ask = { model, prompt: "Where is the parcel?", maxOutputTokens: 12, temperature: 1, seed: 7, maxRetries: 0 };
told.vercel = (await generateText(ask)).text;
told.vercelStreamed = "";
for await (const piece of streamText(ask).textStream) told.vercelStreamed += piece;
console.log(JSON.stringify(told));
