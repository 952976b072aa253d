// The page: a client of /v1/realtime in the browser, without libraries.
import { MelCanvas } from "./mel.js";

const RATE = 24000;
const $ = (id) => document.getElementById(id);
const mel = new MelCanvas($("mel"));

let socket = null;
let context = null;
let player = null;
let microphone = null; // the stream, while it is open
let isSending = false; // whether the microphone's sound goes to the server
let playing = { item: null, heard: 0 };
let speaking = null; // the response on its way
const received = new Map(); // item -> samples so far

// --- what is shown

function say(text) {
  $("status").textContent = text;
}

function fail(text) {
  $("error").textContent = text;
  $("error").hidden = !text;
}

/** The line of an item, which is made where it is missing. */
function line(item, who) {
  let found = document.querySelector(`[data-item="${CSS.escape(item)}"]`);
  if (!found) {
    found = document.createElement("li");
    found.dataset.item = item;
    const name = document.createElement("span");
    name.className = "who";
    name.textContent = who;
    const text = document.createElement("span");
    text.className = "text";
    found.append(name, text);
    $("log").append(found);
  }
  $("log").scrollTop = $("log").scrollHeight;
  return found.querySelector(".text");
}

// --- sound

const toBase64 = (bytes) => {
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(text);
};

function toPCM(samples) {
  const numbers = Int16Array.from(samples, (sample) => Math.round(Math.max(-1, Math.min(1, sample)) * 32767));
  return toBase64(new Uint8Array(numbers.buffer));
}

function fromPCM(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return Float32Array.from(new Int16Array(bytes.buffer), (number) => number / 32768);
}

/** The audio of the page, which browsers allow only after a click or a key. */
async function startAudio() {
  if (!context) {
    context = new AudioContext();
    await context.audioWorklet.addModule("playback.js");
    await context.audioWorklet.addModule("capture.js");
    player = new AudioWorkletNode(context, "playback", { outputChannelCount: [1] });
    player.port.onmessage = ({ data }) => {
      playing = data;
      $("out-level").value = Math.min(1, data.level * 4);
      showStop();
    };
    player.connect(context.destination);
  }
  await context.resume();
}

async function startMicrophone() {
  if (microphone) return;
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Error("This browser gives no microphone to pages without HTTPS. Use https:// or localhost.");
  }
  const cleaning = { echoCancellation: true, noiseSuppression: true, autoGainControl: true };
  microphone = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, ...cleaning } });
  const capture = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0 });
  context.createMediaStreamSource(microphone).connect(capture);
  capture.port.onmessage = ({ data }) => {
    const energy = data.reduce((sum, sample) => sum + sample * sample, 0) / data.length;
    $("in-level").value = isSending ? Math.min(1, Math.sqrt(energy) * 4) : 0;
    if (isSending) send({ type: "input_audio_buffer.append", audio: toPCM(data) });
  };
}

const microphoneErrors = {
  NotAllowedError: "The microphone was refused. Allow it for this page in the browser's settings, or write instead.",
  NotFoundError: "There is no microphone. Connect one, or ask with a file or in writing.",
  NotReadableError: "The microphone is used by another program. Close that, and try again.",
};

function markCut(item) {
  document.querySelector(`[data-item="${CSS.escape(item)}"] .text`)?.classList.add("cut");
}

/** Stops what is heard, and tells the server how much of it was. */
function stopPlaying() {
  const { item, heard } = playing;
  player?.port.postMessage("clear");
  if (item) {
    send({
      type: "conversation.item.truncate",
      item_id: item,
      content_index: 0,
      audio_end_ms: Math.floor((heard * 1000) / RATE),
    });
    markCut(item);
  }
  playing = { item: null, heard: 0 };
}

function stopAnswer() {
  if (speaking) send({ type: "response.cancel" });
  stopPlaying();
}

function showStop() {
  $("stop").disabled = !(speaking || playing.item);
}

// --- the server

function send(event) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(event));
}

const handlers = {
  "session.updated": ({ session }) => {
    const { voice } = session.audio.output;
    if (![...$("voice").options].some((option) => option.value === voice)) $("voice").add(new Option(voice));
    $("voice").value = voice;
  },
  "input_audio_buffer.speech_started": () => {
    stopPlaying();
    say("Listening …");
  },
  "input_audio_buffer.speech_stopped": () => say("Connected."),
  "input_audio_buffer.committed": ({ item_id }) => {
    line(item_id, "You").textContent = "…";
  },
  "conversation.item.input_audio_transcription.delta": ({ item_id, delta }) => {
    const text = line(item_id, "You");
    text.textContent = (text.textContent === "…" ? "" : text.textContent) + delta;
  },
  "conversation.item.input_audio_transcription.completed": ({ item_id, transcript }) => {
    line(item_id, "You").textContent = transcript.trim() || "(nothing understood)";
  },
  "response.created": ({ response }) => {
    speaking = response.id;
    mel.clear();
    say("Answering …");
    showStop();
  },
  "response.output_audio_transcript.delta": ({ item_id, delta }) => {
    line(item_id, "Flow-Omni").textContent += delta;
  },
  "response.output_audio.delta": ({ item_id, delta }) => {
    const samples = fromPCM(delta);
    const start = received.get(item_id) ?? 0;
    received.set(item_id, start + samples.length);
    mel.push(samples);
    player?.port.postMessage({ item: item_id, start, samples });
  },
  "response.done": ({ response }) => {
    speaking = null;
    if (response.status === "cancelled") response.output.forEach(({ id }) => markCut(id));
    say(response.status === "failed" ? "The answer failed." : "Connected.");
    showStop();
  },
  error: ({ error }) => {
    // an answer that ended in the meantime cannot be cancelled, nor what was never heard be cut
    if (error.code !== "response_cancel_not_active") fail(`The server: ${error.message}`);
  },
};

function configure() {
  const isFree = mode() === "free";
  send({
    type: "session.update",
    session: {
      type: "realtime",
      audio: {
        input: { turn_detection: isFree ? { type: "server_vad" } : null, transcription: { model: "flow-omni" } },
        output: $("voice").value ? { voice: $("voice").value } : {},
      },
    },
  });
}

async function connect() {
  if (socket?.readyState === WebSocket.OPEN) return;
  const token = $("token").value;
  const answer = await fetch("v1/models", { headers: token ? { authorization: `Bearer ${token}` } : {} });
  if (answer.status === 401) {
    $("token-form").hidden = false;
    $("token").focus();
    throw new Error(token ? "The server does not accept this token." : "This server needs a token.");
  }
  if (!answer.ok) throw new Error(`The server answered ${answer.status}.`);
  $("token-form").hidden = true;
  const { id: model, voices } = (await answer.json()).data[0];
  if (!$("voice").length) $("voice").replaceChildren(...voices.map((voice) => new Option(voice)));
  const url = new URL(`v1/realtime?model=${encodeURIComponent(model)}`, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  socket = new WebSocket(url, ["realtime", ...(token ? [`openai-insecure-api-key.${token}`] : [])]);
  socket.onmessage = ({ data }) => {
    const event = JSON.parse(data);
    handlers[event.type]?.(event);
  };
  socket.onclose = ({ reason }) => {
    speaking = null;
    setTalking(false);
    say(`Not connected${reason ? ` (${reason})` : ""}.`);
  };
  await new Promise((resolve, reject) => {
    socket.onopen = resolve;
    socket.onerror = () => reject(new Error("The connection failed: the server may be full. Try again later."));
  });
  say("Connected.");
  configure();
}

/** Runs what a control asks for, and shows what went wrong. */
async function attempt(work) {
  fail("");
  try {
    await startAudio();
    await connect();
    await work();
  } catch (error) {
    fail(microphoneErrors[error.name] ?? error.message);
  }
}

// --- controls

const mode = () => document.querySelector("[name=mode]:checked").value;

function setTalking(isOn) {
  isSending = isOn;
  $("talk").setAttribute("aria-pressed", String(isOn));
  const free = isOn ? "Stop the microphone" : "Start the microphone";
  $("talk").textContent = mode() === "free" ? free : isOn ? "Release to send" : "Hold to talk";
  if (!isOn) $("in-level").value = 0;
}

let isHeld = false;

function hold() {
  if (mode() !== "push" || isHeld) return;
  isHeld = true;
  attempt(async () => {
    await startMicrophone();
    if (!isHeld) return; // released while the browser asked for the microphone
    stopAnswer();
    send({ type: "input_audio_buffer.clear" });
    setTalking(true);
  });
}

function release() {
  if (!isHeld) return;
  isHeld = false;
  if (!isSending) return;
  setTalking(false);
  send({ type: "input_audio_buffer.commit" });
  send({ type: "response.create" });
}

$("talk").addEventListener("pointerdown", hold);
for (const name of ["pointerup", "pointercancel", "pointerleave"]) $("talk").addEventListener(name, release);
$("talk").addEventListener("keydown", (event) => {
  if (mode() === "push" && [" ", "Enter"].includes(event.key)) {
    event.preventDefault();
    hold();
  }
});
$("talk").addEventListener("keyup", release);
$("talk").addEventListener("blur", release);
$("talk").addEventListener("click", () => {
  if (mode() !== "free") return;
  if (isSending) setTalking(false);
  else
    attempt(async () => {
      await startMicrophone();
      setTalking(true);
    });
});

for (const radio of document.querySelectorAll("[name=mode]")) {
  radio.addEventListener("change", () => {
    setTalking(false);
    configure();
    $("talk-hint").textContent =
      mode() === "free"
        ? "Speak, and pause when you have finished. You can talk over the answer."
        : "Hold the button, or Space while it is focused, and speak.";
  });
}

$("stop").addEventListener("click", stopAnswer);
$("voice").addEventListener("change", configure);

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => $("talk").focus());
});

function ask(content, shown) {
  stopAnswer();
  line(crypto.randomUUID?.() ?? String(Math.random()), "You").textContent = shown;
  send({ type: "conversation.item.create", item: { type: "message", role: "user", content: [content] } });
  send({ type: "response.create" });
}

$("text-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text) return;
  attempt(async () => {
    ask({ type: "input_text", text }, text);
    $("text").value = "";
  });
});

$("file").addEventListener("change", ({ target }) => {
  const [file] = target.files;
  if (!file) return;
  attempt(async () => {
    const decoded = await context.decodeAudioData(await file.arrayBuffer()).catch(() => {
      throw new Error(`${file.name} is not audio that this browser can read.`);
    });
    const offline = new OfflineAudioContext(1, Math.max(1, Math.ceil(decoded.duration * RATE)), RATE);
    const source = new AudioBufferSourceNode(offline, { buffer: decoded });
    source.connect(offline.destination);
    source.start();
    const samples = (await offline.startRendering()).getChannelData(0);
    ask({ type: "input_audio", audio: toPCM(samples) }, file.name);
    target.value = "";
  });
});
