const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS = [
  "January",
  "February",
  "March",
  "April",
  "May",
  "June",
  "July",
  "August",
  "September",
  "October",
  "November",
  "December",
];
const DAY = 86_400_000;

/**
 * Formats a local time like Python's datetime.strftime on Linux (glibc) in the C locale. Flags of glibc (`%-d`, `%_d`,
 * `%^a`) and widths are supported.
 */
export function strftime(format: string, time: Date): string {
  return format.replace(/%([-_0^#]*)(\d*)[EO]?([a-zA-Z%+])/g, (whole, flags: string, width: string, letter: string) => {
    const field = fieldOf(letter, time);
    if (field === undefined) return whole;
    let { text } = field;
    let { filler } = field;
    if (flags.includes("^")) text = text.toUpperCase();
    if (flags.includes("#")) text = letter === "Z" || letter === "p" ? text.toLowerCase() : text.toUpperCase();
    const last = [...flags].reverse().find((flag) => "-_0".includes(flag));
    if (last === "_") filler = " ";
    if (last === "0") filler = "0";
    if (last === "-" && width === "") return text;
    return text.padStart(width === "" ? field.width : Number(width), filler);
  });
}

interface Field {
  readonly text: string;
  readonly width: number;
  readonly filler: string;
}

function fieldOf(letter: string, time: Date): Field | undefined {
  const zeros = (value: number, width = 2): Field => ({ text: String(value), width, filler: "0" });
  const spaces = (value: number): Field => ({ text: String(value), width: 2, filler: " " });
  const text = (value: string): Field => ({ text: value, width: 0, filler: " " });
  const nested = (format: string) => text(strftime(format, time));
  const year = time.getFullYear();
  const hour = time.getHours();
  const weekday = time.getDay();
  const yearDay = Math.round((Date.UTC(year, time.getMonth(), time.getDate()) - Date.UTC(year, 0, 1)) / DAY);
  switch (letter) {
    case "a":
      return text(DAYS[weekday].slice(0, 3));
    case "A":
      return text(DAYS[weekday]);
    case "b":
    case "h":
      return text(MONTHS[time.getMonth()].slice(0, 3));
    case "B":
      return text(MONTHS[time.getMonth()]);
    case "c":
      return nested("%a %b %e %H:%M:%S %Y");
    case "C":
      return zeros(Math.floor(year / 100));
    case "d":
      return zeros(time.getDate());
    case "D":
    case "x":
      return nested("%m/%d/%y");
    case "e":
      return spaces(time.getDate());
    case "f":
      return { text: String(time.getMilliseconds() * 1000).padStart(6, "0"), width: 0, filler: "0" };
    case "F":
      return nested("%Y-%m-%d");
    case "g":
      return zeros(isoWeek(time).year % 100);
    case "G":
      return text(String(isoWeek(time).year));
    case "H":
      return zeros(hour);
    case "I":
      return zeros(hour % 12 || 12);
    case "j":
      return zeros(yearDay + 1, 3);
    case "k":
      return spaces(hour);
    case "l":
      return spaces(hour % 12 || 12);
    case "m":
      return zeros(time.getMonth() + 1);
    case "M":
      return zeros(time.getMinutes());
    case "n":
      return text("\n");
    case "p":
      return text(hour < 12 ? "AM" : "PM");
    case "P":
      return text(hour < 12 ? "am" : "pm");
    case "r":
      return nested("%I:%M:%S %p");
    case "R":
      return nested("%H:%M");
    case "s":
      return text(String(Math.floor(time.getTime() / 1000)));
    case "S":
      return zeros(time.getSeconds());
    case "t":
      return text("\t");
    case "T":
    case "X":
      return nested("%H:%M:%S");
    case "u":
      return text(String(weekday || 7));
    case "U":
      return zeros(Math.floor((yearDay + 7 - weekday) / 7));
    case "V":
      return zeros(isoWeek(time).week);
    case "w":
      return text(String(weekday));
    case "W":
      return zeros(Math.floor((yearDay + 7 - ((weekday + 6) % 7)) / 7));
    case "y":
      return zeros(year % 100);
    case "Y":
      return text(String(year));
    case "z":
    case "Z":
      return text(""); // a time without a zone
    case "%":
      return text("%");
    default:
      return undefined;
  }
}

/** The ISO 8601 week and its year. */
function isoWeek(time: Date): { year: number; week: number } {
  const day = Date.UTC(time.getFullYear(), time.getMonth(), time.getDate());
  const thursday = day + (4 - (time.getDay() || 7)) * DAY;
  const year = new Date(thursday).getUTCFullYear();
  return { year, week: Math.floor((thursday - Date.UTC(year, 0, 1)) / DAY / 7) + 1 };
}
